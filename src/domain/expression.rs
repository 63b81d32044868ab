//! A filter in the language of Okta's log search: its text, checked and taken apart.
//!
//! SCIM's filter language as Okta's System Log takes it: `eq ne co sw ew gt ge lt le pr`, `and`, `or`,
//! `not`, parentheses; operators without regard to case, `not` before `and` before `or`. Brackets are
//! not part of it. What is wrong is said with its column. Reading events by it is not done here:
//! that needs their JSON.

use std::fmt;

/// Bytes of a text, about a hundred conditions: each is held against every event that is read.
const TEXT_BYTES_MAX: usize = 4096;
/// Parentheses and `not` within each other, so that no text costs stack.
const DEPTH_MAX: usize = 32;

/// A checked expression. Two are the same if their texts are.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    root: Node,
}

impl Expression {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn root(&self) -> &Node {
        &self.root
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

/// A part of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// All of them hold.
    And(Vec<Node>),
    /// One of them holds.
    Or(Vec<Node>),
    Not(Box<Node>),
    /// There is a value that is not empty.
    Present(Path),
    Compare {
        path: Path,
        operator: Operator,
        value: Literal,
    },
}

/// Where a value stands: the names of members, from the outside in, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(pub Vec<String>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Operator {
    const ALL: [(&'static str, Self); 9] = [
        ("eq", Self::Equal),
        ("ne", Self::NotEqual),
        ("co", Self::Contains),
        ("sw", Self::StartsWith),
        ("ew", Self::EndsWith),
        ("gt", Self::Greater),
        ("ge", Self::GreaterOrEqual),
        ("lt", Self::Less),
        ("le", Self::LessOrEqual),
    ];
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// In lower case.
    Text(String),
    Number(f64),
    Bool(bool),
}

/// Why a text is no expression, and where: the column is counted in characters, from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct InvalidExpression {
    pub column: usize,
    pub problem: String,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// If it is none, is longer than 4 096 bytes or nested deeper than 32 levels.
    pub fn parse(text: &str) -> Result<Self, InvalidExpression> {
        if text.len() > TEXT_BYTES_MAX {
            let bytes = text.len();
            return wrong(
                1,
                format!("{bytes} bytes, at most {TEXT_BYTES_MAX} are taken"),
            );
        }
        let mut parser = Parser {
            tokens: tokens(text)?,
            at: 0,
            end: text.chars().count() + 1,
            depth: 0,
        };
        let root = parser.any_of()?;
        match parser.next() {
            None => Ok(Self {
                text: text.to_owned(),
                root,
            }),
            Some((column, token)) => Err(InvalidExpression {
                column,
                problem: match token {
                    Token::Close => "this parenthesis was not opened".to_owned(),
                    token => format!("`and` or `or` is missing before {token}"),
                },
            }),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    /// A path, an operator or a word.
    Word(String),
    Text(String),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

fn wrong<T>(column: usize, problem: impl Into<String>) -> Result<T, InvalidExpression> {
    Err(InvalidExpression {
        column,
        problem: problem.into(),
    })
}

/// The text's tokens with their columns.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, InvalidExpression> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().zip(1..).peekable();
    while let Some(((start, character), column)) = rest.next() {
        let token = match character {
            character if character.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '"' => {
                let mut escaped = false;
                let end = rest.find(|((_, character), _)| {
                    let ends = *character == '"' && !escaped;
                    escaped = *character == '\\' && !escaped;
                    ends
                });
                let Some(((end, _), _)) = end else {
                    return wrong(
                        column,
                        "this text has no quotation mark at its end".to_owned(),
                    );
                };
                match serde_json::from_str(&text[start..=end]) {
                    Ok(content) => Token::Text(content),
                    Err(_bad_escape) => {
                        return wrong(
                            column,
                            "this text has an escape that JSON does not have".to_owned(),
                        );
                    }
                }
            }
            '[' | ']' => {
                return wrong(column, "brackets are not part of the language");
            }
            '\'' => return wrong(column, "texts stand in double quotation marks"),
            _ => {
                let mut end = start + character.len_utf8();
                while let Some(((at, character), _)) = rest.next_if(|((_, character), _)| {
                    !character.is_whitespace() && !"()\"[]'".contains(*character)
                }) {
                    end = at + character.len_utf8();
                }
                Token::Word(text[start..end].to_owned())
            }
        };
        tokens.push((column, token));
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    /// The column behind the text.
    end: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&(usize, Token)> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<(usize, Token)> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    /// Takes a word if it comes next.
    fn takes(&mut self, wanted: &str) -> bool {
        let is_next = matches!(
            self.peek(),
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case(wanted)
        );
        self.at += usize::from(is_next);
        is_next
    }

    fn any_of(&mut self) -> Result<Node, InvalidExpression> {
        let mut nodes = vec![self.all_of()?];
        while self.takes("or") {
            nodes.push(self.all_of()?);
        }
        Ok(single_or(nodes, Node::Or))
    }

    fn all_of(&mut self) -> Result<Node, InvalidExpression> {
        let mut nodes = vec![self.term()?];
        while self.takes("and") {
            nodes.push(self.term()?);
        }
        Ok(single_or(nodes, Node::And))
    }

    fn term(&mut self) -> Result<Node, InvalidExpression> {
        let Some((column, token)) = self.next() else {
            return wrong(self.end, "a condition is missing here");
        };
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return wrong(column, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        let node = match token {
            Token::Open => {
                let node = self.any_of()?;
                match self.next() {
                    Some((_, Token::Close)) => node,
                    Some((at, token)) => {
                        return wrong(at, format!("`and`, `or` or `)` is missing before {token}"));
                    }
                    None => return wrong(column, "this parenthesis is not closed"),
                }
            }
            Token::Word(word) if word.eq_ignore_ascii_case("not") => {
                Node::Not(Box::new(self.term()?))
            }
            Token::Word(word) => self.condition(column, &word)?,
            token => return wrong(column, format!("a condition is missing before {token}")),
        };
        self.depth -= 1;
        Ok(node)
    }

    fn condition(&mut self, column: usize, word: &str) -> Result<Node, InvalidExpression> {
        let path = Path(word.split('.').map(str::to_lowercase).collect());
        let is_name = |name: &String| {
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | ':');
            !name.is_empty() && name.chars().all(plain)
        };
        if !path.0.iter().all(is_name) {
            return wrong(
                column,
                format!("`{word}` is no path such as outcome.result"),
            );
        }
        let names: Vec<_> = Operator::ALL.iter().map(|(name, _)| *name).collect();
        let must = format!("an operator is missing: one of {}, pr", names.join(", "));
        let operator = match self.next() {
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("pr") => {
                return Ok(Node::Present(path));
            }
            Some((at, Token::Word(word))) => {
                let known = Operator::ALL
                    .into_iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(&word));
                match known {
                    Some((_, operator)) => operator,
                    None => return wrong(at, format!("{must}; here is `{word}`")),
                }
            }
            Some((at, _)) => return wrong(at, must),
            None => return wrong(self.end, must),
        };
        let value = self.literal()?;
        Ok(Node::Compare {
            path,
            operator,
            value,
        })
    }

    fn literal(&mut self) -> Result<Literal, InvalidExpression> {
        match self.next() {
            Some((_, Token::Text(text))) => Ok(Literal::Text(text.to_lowercase())),
            Some((at, Token::Word(word))) => match word.to_ascii_lowercase().as_str() {
                "true" => Ok(Literal::Bool(true)),
                "false" => Ok(Literal::Bool(false)),
                "null" => wrong(at, "nothing is compared with null: write `not (… pr)`"),
                number => match number.parse() {
                    Ok(number) => Ok(Literal::Number(number)),
                    Err(_no_number) => wrong(
                        at,
                        format!("`{word}` is no value: texts stand in quotation marks"),
                    ),
                },
            },
            Some((at, token)) => wrong(at, format!("a value is missing before {token}")),
            None => wrong(self.end, "a value is missing here"),
        }
    }
}

fn single_or(mut nodes: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    match nodes.len() {
        1 => nodes.remove(0),
        _ => join(nodes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, column: usize, problem: &str) {
        let error = Expression::parse(text).unwrap_err();
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.problem.contains(problem), "{text}: {error}");
    }

    fn root(text: &str) -> Node {
        Expression::parse(text).unwrap().root
    }

    #[test]
    fn not_binds_before_and_before_or() {
        assert_eq!(
            root("a pr or b pr and not c pr"),
            root("a pr or (b pr and (not c pr))")
        );
        assert_ne!(
            root("a pr or b pr and c pr"),
            root("(a pr or b pr) and c pr")
        );
        assert_eq!(
            root("A.B EQ \"X\" AND NOT c PR"),
            root("a.b eq \"x\" and not (c pr)")
        );
        assert_eq!(root(r#"a eq "\u0041\"""#), root(r#"a eq "a\"""#));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column() {
        check("", 1, "a condition is missing");
        check("a", 2, "an operator is missing");
        check("a is 1", 3, "one of eq, ne");
        check("a eq", 5, "a value is missing");
        check("a eq b", 6, "quotation marks");
        check("a eq 'b'", 6, "double");
        check("ü eq \"b", 6, "no quotation mark");
        check("a eq \"\\q\"", 6, "an escape");
        check("a eq null", 6, "not (… pr)");
        check("a pr b pr", 6, "`and` or `or` is missing");
        check("a pr and", 9, "a condition is missing");
        check("(a pr", 1, "not closed");
        check("a pr)", 5, "not opened");
        check("(a pr b", 7, "`)` is missing");
        check("target[type eq \"a\"] pr", 7, "brackets");
        check("a..b pr", 1, "no path");
        check("\"a\" eq \"b\"", 1, "a condition is missing");
        check(&format!("{}a pr", "not ".repeat(40)), 129, "deeper");
        check(&"(".repeat(5000), 1, "at most 4096");
    }

    proptest! {
        #[test]
        fn any_text_is_an_expression_or_says_where_it_is_not(text in "[ab.() \"\\\\eqprnotadü1]{0,40}") {
            if let Err(error) = Expression::parse(&text) {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}");
            }
        }
    }
}
