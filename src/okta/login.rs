//! Login to an org's API: an API token, or a service app that signs with its private key.
//!
//! OAuth 2.0 client credentials as Okta's org server takes them: client authentication by
//! `private_key_jwt` alone, RS256 or ES256. An access token is renewed well before it expires, and
//! keys are read from their file each time, so a new one needs no restart. Secrets go to the org's
//! URL and nowhere else, and are never part of an error.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::{HeaderValue, InvalidHeaderValue};
use serde::{Deserialize, Serialize};

use super::system_log::error_text;
use crate::config::{LoginConfig, Secret, UnreadableSecret};
use crate::domain::event::Timestamp;

/// The scope that reading the System Log needs.
const SCOPE: &str = "okta.logs.read";

/// For how long an assertion is valid, in seconds. Okta allows an hour; five minutes forgive a clock
/// that is behind by as much. When it was made is not said, so one that is ahead is forgiven too.
const ASSERTION_SECONDS: i64 = 300;

/// How long before its end a token is renewed, in seconds: enough for some failed attempts.
const RENEW_AHEAD_SECONDS: i64 = 300;

/// The largest answer of the token endpoint that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no login. All but `Unreachable` and `Refused` with a 5xx need somebody.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(transparent)]
    Secret(#[from] UnreadableSecret),
    #[error("the API token holds characters that no HTTP header can carry")]
    Token(#[from] InvalidHeaderValue),
    #[error("the private key can't be used: {0}")]
    Key(&'static str),
    #[error("the private key can't be used")]
    Unusable(#[from] jsonwebtoken::errors::Error),
    #[error("the token endpoint can't be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("no access token: {status} {text}")]
    Refused { status: u16, text: String },
}

/// A way to log in, with what it has got so far.
#[derive(Debug)]
pub struct Login {
    config: LoginConfig,
    token: Option<AccessToken>,
}

struct AccessToken {
    header: HeaderValue,
    /// Seconds since 1970.
    renew_at: i64,
    expires_at: i64,
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessToken(until {})", self.expires_at)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    jti: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    token_type: String,
    expires_in: i64,
}

impl Login {
    pub fn new(config: LoginConfig) -> Self {
        Self {
            config,
            token: None,
        }
    }

    /// The value of the `Authorization` header, asked for at the org if need be.
    ///
    /// # Cancel safety
    /// A dropped call may cost the token that it got; the next call gets another.
    pub async fn authorization(
        &mut self,
        http: &reqwest::Client,
        base: &reqwest::Url,
        now: Timestamp,
    ) -> Result<HeaderValue, LoginError> {
        let (client_id, private_key, key_id) = match &self.config {
            LoginConfig::ApiToken(token) => return Ok(sensitive("SSWS", &token.read()?)?),
            LoginConfig::Oauth {
                client_id,
                private_key,
                private_key_id,
            } => (client_id, private_key, private_key_id.as_deref()),
        };
        if let Some(token) = &self.token
            && now.seconds < token.renew_at
        {
            return Ok(token.header.clone());
        }
        match fetch_token(http, base, client_id, private_key, key_id, now).await {
            Ok(token) => {
                let header = token.header.clone();
                self.token = Some(token);
                Ok(header)
            }
            // The old one is good for a while.
            Err(error) => match &self.token {
                Some(token) if now.seconds < token.expires_at => {
                    let error = anyhow::Error::new(error);
                    tracing::warn!(error = format!("{error:#}"), "access token not renewed");
                    Ok(token.header.clone())
                }
                _ => Err(error),
            },
        }
    }

    /// Forgets the access token: the org does not take it any more.
    pub fn forget(&mut self) {
        self.token = None;
    }
}

/// `SCHEME secret`, marked so that nothing prints it.
fn sensitive(scheme: &str, secret: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {secret}"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn fetch_token(
    http: &reqwest::Client,
    base: &reqwest::Url,
    client_id: &str,
    private_key: &Secret,
    key_id: Option<&str>,
    now: Timestamp,
) -> Result<AccessToken, LoginError> {
    let mut url = base.clone();
    url.set_path("/oauth2/v1/token");
    let assertion = assertion(&private_key.read()?, key_id, client_id, url.as_str(), now)?;
    let form = [
        ("grant_type", "client_credentials"),
        ("scope", SCOPE),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("client_assertion", assertion.as_str()),
    ];
    let request = http.post(url).header("accept", "application/json");
    let answer = super::system_log::send(request.form(&form), "POST /oauth2/v1/token")
        .await
        .map_err(LoginError::Unreachable)?;
    let status = answer.status();
    let refused = |text| LoginError::Refused {
        status: status.as_u16(),
        text,
    };
    let body = super::system_log::body(answer, ANSWER_BYTES_MAX)
        .await
        .map_err(|error| match error {
            super::system_log::BodyError::Broken(error) => LoginError::Unreachable(error),
            super::system_log::BodyError::TooLarge => {
                refused("an answer that is no token's".into())
            }
        })?;
    if !status.is_success() {
        let mut text = error_text(&body);
        if text.contains("dpop") {
            text.push_str(
                ": the service app demands DPoP, which is not supported: switch \"Require \
                 Demonstrating Proof of Possession\" off in Okta",
            );
        }
        return Err(refused(text));
    }
    let answer: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|_no_token| refused("an answer without a token".into()))?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(refused(format!("a token of type {:?}", answer.token_type)));
    }
    let life = answer.expires_in.clamp(0, 24 * 3600);
    Ok(AccessToken {
        header: sensitive("Bearer", &answer.access_token)?,
        renew_at: now.seconds + life - RENEW_AHEAD_SECONDS.min(life / 2),
        expires_at: now.seconds + life,
    })
}

/// The JWT by which the service app says who it is.
fn assertion(
    private_key: &str,
    key_id: Option<&str>,
    client_id: &str,
    audience: &str,
    now: Timestamp,
) -> Result<String, LoginError> {
    let SigningKey { algorithm, key, id } = SigningKey::read(private_key)?;
    let header = Header {
        kid: key_id.map(str::to_owned).or(id),
        ..Header::new(algorithm)
    };
    let claims = Claims {
        iss: client_id,
        sub: client_id,
        aud: audience,
        exp: now.seconds + ASSERTION_SECONDS,
        jti: uuid::Uuid::new_v4().to_string(),
    };
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}

struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
    /// A JWK's own id.
    id: Option<String>,
}

impl SigningKey {
    fn read(text: &str) -> Result<Self, LoginError> {
        if text.starts_with('{') {
            return Self::from_jwk(text);
        }
        let begins = |name: &str| text.contains(&format!("-----BEGIN {name}-----"));
        if begins("ENCRYPTED PRIVATE KEY") {
            return Err(LoginError::Key(
                "it is encrypted: give it without a password, in a file that only the service can read",
            ));
        }
        if begins("EC PRIVATE KEY") {
            return Err(LoginError::Key(
                "it is in SEC 1 form: change it with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`",
            ));
        }
        if !begins("PRIVATE KEY") && !begins("RSA PRIVATE KEY") {
            return Err(LoginError::Key(
                "it is neither a PEM file with BEGIN PRIVATE KEY nor a JWK",
            ));
        }
        let (algorithm, key) = match EncodingKey::from_rsa_pem(text.as_bytes()) {
            Ok(key) => (Algorithm::RS256, key),
            Err(_no_rsa_key) => (Algorithm::ES256, EncodingKey::from_ec_pem(text.as_bytes())?),
        };
        Ok(Self {
            algorithm,
            key,
            id: None,
        })
    }

    fn from_jwk(text: &str) -> Result<Self, LoginError> {
        let jwk: Jwk = serde_json::from_str(text).map_err(|_no_key| {
            LoginError::Key("it is JSON, but no private JWK of kty RSA or EC")
        })?;
        let bytes = |text: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
            decoded.map_err(|_no_base64| LoginError::Key("a number of the JWK is not base64url"))
        };
        let (algorithm, key) = match &jwk.parts {
            JwkParts::Rsa {
                n,
                e,
                d,
                p,
                q,
                dp,
                dq,
                qi,
            } => {
                // RSAPrivateKey of PKCS #1 (RFC 8017, appendix A.1.2).
                let mut content = der_number(&[0]);
                for number in [n, e, d, p, q, dp, dq, qi] {
                    content.extend(der_number(&bytes(number)?));
                }
                let key = EncodingKey::from_rsa_der(&der(SEQUENCE, &content));
                (Algorithm::RS256, key)
            }
            JwkParts::Ec { crv, d, x, y } => {
                if crv != "P-256" {
                    return Err(LoginError::Key("the JWK's curve is not P-256"));
                }
                let public = [&[0, 4][..], &bytes(x)?, &bytes(y)?].concat();
                // ECPrivateKey (RFC 5915) within PrivateKeyInfo (RFC 5208).
                let private = [
                    der_number(&[1]),
                    der(OCTETS, &bytes(d)?),
                    der(CONTEXT_1, &der(BITS, &public)),
                ]
                .concat();
                let algorithm = [EC_PUBLIC_KEY, PRIME256V1].concat();
                let info = [
                    der_number(&[0]),
                    der(SEQUENCE, &algorithm),
                    der(OCTETS, &der(SEQUENCE, &private)),
                ]
                .concat();
                let key = EncodingKey::from_ec_der(&der(SEQUENCE, &info));
                (Algorithm::ES256, key)
            }
        };
        Ok(Self {
            algorithm,
            key,
            id: jwk.kid,
        })
    }
}

#[derive(Deserialize)]
struct Jwk {
    kid: Option<String>,
    #[serde(flatten)]
    parts: JwkParts,
}

#[derive(Deserialize)]
#[serde(tag = "kty")]
enum JwkParts {
    #[serde(rename = "RSA")]
    Rsa {
        n: String,
        e: String,
        d: String,
        p: String,
        q: String,
        dp: String,
        dq: String,
        qi: String,
    },
    #[serde(rename = "EC")]
    Ec {
        crv: String,
        d: String,
        x: String,
        y: String,
    },
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const CONTEXT_1: u8 = 0xa1;

/// Object identifiers 1.2.840.10045.2.1 and 1.2.840.10045.3.1.7, as DER.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// A value of DER: tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let mut value = vec![tag];
    if content.len() < 0x80 {
        value.push(length[length.len() - 1]);
    } else {
        let zeros = length.iter().take_while(|byte| **byte == 0).count();
        let bytes = &length[zeros..];
        value.push(0x80 | u8::try_from(bytes.len()).expect("a length has at most 8 bytes"));
        value.extend(bytes);
    }
    value.extend(content);
    value
}

/// An unsigned number of DER.
fn der_number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    // A leading bit would make it negative, and zero has one byte.
    let mut content = vec![0; usize::from(bytes.get(zeros).is_none_or(|byte| *byte >= 0x80))];
    content.extend(&bytes[zeros..]);
    der(INTEGER, &content)
}
