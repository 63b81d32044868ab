//! `POST /oauth2/v1/token`: access tokens for a service app that signs an assertion with its key.
//!
//! Signature and claims are checked for real, as Okta documents them for `private_key_jwt`. Why a
//! request was refused is told to the test, and to the client only as far as Okta tells it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::Url;
use serde_json::{Value, json};

use super::{CLIENT_ID, KeyPair, MockOkta, Org, error_body};

const SCOPE: &str = "okta.logs.read";

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An assertion may be good for that long.
const EXPIRY_MAX: i64 = 3_600;

/// How far the client's clock may be ahead.
const CLOCK_AHEAD_MAX: i64 = 300;

/// Something that happens to one request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    ServerError,
    /// The app demands a proof of possession.
    UseDpopNonce,
}

/// What the org knows of clients and their tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    life: Duration,
    keys: HashMap<String, DecodingKey>,
    /// `jti` of assertions that were used.
    used: HashSet<String>,
    /// When each token ends.
    good_until: HashMap<String, Timestamp>,
    issued: usize,
    refused: Vec<String>,
    faults: VecDeque<TokenFault>,
}

impl Tokens {
    pub(super) fn new(life: Duration) -> Self {
        Self {
            life,
            keys: HashMap::new(),
            used: HashSet::new(),
            good_until: HashMap::new(),
            issued: 0,
            refused: Vec::new(),
            faults: VecDeque::new(),
        }
    }

    pub(super) fn is_good(&self, token: &str, now: Timestamp) -> bool {
        self.good_until.get(token).is_some_and(|end| now < *end)
    }

    fn issue(&mut self, now: Timestamp) -> Value {
        let token = format!("mockAccessToken.{}", uuid::Uuid::new_v4().simple());
        self.good_until.insert(token.clone(), now + self.life);
        self.issued += 1;
        json!({
            "token_type": "Bearer",
            "expires_in": self.life.as_secs(),
            "access_token": token,
            "scope": SCOPE,
        })
    }

    /// Checks a request without its scope; the error says what is wrong.
    fn check_client(&mut self, form: &Form, url: &str, now: Timestamp) -> Result<(), String> {
        if form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
            return Err("client_assertion_type is another".to_owned());
        }
        let assertion = form.get("client_assertion").ok_or("no client_assertion")?;
        if form.get("client_id").is_some_and(|id| id != CLIENT_ID) {
            return Err("client_id is another".to_owned());
        }
        let claims = self.verified_claims(assertion)?;
        check_claims(&claims, url, now.as_second())?;
        let jti = claims["jti"].as_str().ok_or("no jti")?;
        if self.used.insert(jti.to_owned()) {
            Ok(())
        } else {
            Err("jti was used before".to_owned())
        }
    }

    fn verified_claims(&self, assertion: &str) -> Result<Value, String> {
        let header = decode_header(assertion).map_err(|error| format!("no JWT: {error}"))?;
        if ![Algorithm::RS256, Algorithm::ES256].contains(&header.alg) {
            return Err(format!("signed with {:?}", header.alg));
        }
        let key = match &header.kid {
            Some(kid) => self.keys.get(kid),
            None if self.keys.len() == 1 => self.keys.values().next(),
            None => None,
        };
        let key = key.ok_or("no key of that kid")?;
        let mut validation = Validation::new(header.alg);
        // The claims are checked one by one, so that each refusal has its own reason.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let token = decode::<Value>(assertion, key, &validation);
        let token = token.map_err(|error| format!("the signature: {error}"))?;
        Ok(token.claims)
    }
}

fn check_claims(claims: &Value, url: &str, now: i64) -> Result<(), String> {
    if claims["iss"] != CLIENT_ID || claims["sub"] != CLIENT_ID {
        return Err("iss or sub is not the client id".to_owned());
    }
    let audience = &claims["aud"];
    let listed = audience
        .as_array()
        .is_some_and(|all| all.contains(&json!(url)));
    if !listed && *audience != url {
        return Err(format!("aud is {audience}"));
    }
    let expires = claims["exp"].as_i64().ok_or("no exp")?;
    if expires <= now {
        return Err("exp is past".to_owned());
    }
    // The second in which it was made may have passed.
    if expires > now + EXPIRY_MAX + 1 {
        return Err("exp is more than an hour away".to_owned());
    }
    let issued = claims.get("iat").map_or(Some(now), Value::as_i64);
    match issued {
        Some(issued) if issued <= now + CLOCK_AHEAD_MAX => Ok(()),
        _ => Err("iat is in the future".to_owned()),
    }
}

/// The fields of a form.
#[derive(Debug)]
struct Form(HashMap<String, String>);

impl Form {
    fn parse(body: &[u8]) -> Self {
        let mut url = Url::parse("http://form.example/").unwrap();
        url.set_query(Some(&String::from_utf8_lossy(body)));
        Self(url.query_pairs().into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The handler.
pub(super) async fn token(
    Shared(org): Shared<Arc<Org>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let now = org.clock.now();
    let url = org.token_url();
    let tokens = &mut org.lock().tokens;
    match tokens.faults.pop_front() {
        Some(TokenFault::ServerError) => {
            let body = error_body("E0000009", "Internal Server Error");
            return answer(StatusCode::INTERNAL_SERVER_ERROR, body);
        }
        Some(TokenFault::UseDpopNonce) => {
            let summary = "Authorization server requires nonce in DPoP proof.";
            let refusal = refusal(StatusCode::BAD_REQUEST, "use_dpop_nonce", summary);
            let nonce = uuid::Uuid::new_v4().simple().to_string();
            return ([("dpop-nonce", nonce)], refusal).into_response();
        }
        None => {}
    }
    let is_form = headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    let form = Form::parse(&body);
    let scopes = form.get("scope").unwrap_or("");
    let (status, error, reason) = if !is_form {
        let reason = "the body is no form".to_owned();
        (StatusCode::BAD_REQUEST, "invalid_request", reason)
    } else if form.get("grant_type") != Some("client_credentials") {
        let reason = "grant_type is another".to_owned();
        (StatusCode::BAD_REQUEST, "unsupported_grant_type", reason)
    } else if let Err(reason) = tokens.check_client(&form, &url, now) {
        (StatusCode::UNAUTHORIZED, "invalid_client", reason)
    } else if !scopes.split(' ').any(|scope| scope == SCOPE) {
        let reason = format!("scope is {scopes:?}");
        (StatusCode::BAD_REQUEST, "invalid_scope", reason)
    } else {
        return answer(StatusCode::OK, tokens.issue(now).to_string());
    };
    let refusal = refusal(status, error, &reason);
    tokens.refused.push(reason);
    refusal
}

fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    let body = json!({"error": error, "error_description": description});
    answer(status, body.to_string())
}

fn answer(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

impl MockOkta {
    /// Knows the public half of a key from now on.
    pub(crate) fn register(&self, key: &KeyPair) {
        let keys = &mut self.org().lock().tokens.keys;
        keys.insert(key.kid.clone(), key.public_key());
    }

    /// A new RSA key of the client's, of which the org knows the public half.
    pub(crate) fn new_rsa_key(&self) -> KeyPair {
        let key = KeyPair::rsa();
        self.register(&key);
        key
    }

    /// A new P-256 key of the client's, of which the org knows the public half.
    pub(crate) fn new_ec_key(&self) -> KeyPair {
        let key = KeyPair::ec();
        self.register(&key);
        key
    }

    /// How long tokens are good for that are issued from now on.
    pub(crate) fn set_token_life(&self, life: Duration) {
        self.org().lock().tokens.life = life;
    }

    /// No token issued so far is good any more.
    pub(crate) fn revoke_tokens(&self) {
        self.org().lock().tokens.good_until.clear();
    }

    /// Does this to the next request for a token, after those queued before.
    pub(crate) fn queue_token_fault(&self, fault: TokenFault) {
        self.org().lock().tokens.faults.push_back(fault);
    }

    pub(crate) fn tokens_issued(&self) -> usize {
        self.org().lock().tokens.issued
    }

    /// Why requests for a token were refused, faults excepted.
    pub(crate) fn token_refusals(&self) -> Vec<String> {
        self.org().lock().tokens.refused.clone()
    }
}
