//! The names of a classification's values as arguments, so that help and completion list them.

/// A parser that takes an axis' names as the contract has them, or in lower case with `-`.
macro_rules! axis {
    ($axis:ident) => {
        clap::builder::TypedValueParser::map(
            clap::builder::PossibleValuesParser::new($axis::ALL.iter().map(|value| {
                let name = value.name();
                clap::builder::PossibleValue::new(name.to_lowercase().replace('_', "-")).alias(name)
            })),
            |name: String| {
                name.parse::<$axis>()
                    .expect("the parser lets known names through only")
            },
        )
    };
}
pub(super) use axis;
