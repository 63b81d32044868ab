//! That a token is issued for what Okta documents as an assertion, and for nothing else.
//!
//! The assertions are signed here with the private keys that the org hands out; each test bends one
//! part of a request that is right.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};

use super::{CLIENT, logs, read};
use crate::harness::{eventually, within};
use crate::mock_okta::{CLIENT_ID, KeyPair, MockOkta, Scheme, TokenFault};

/// What a request for a token is made of; each test bends one part.
struct TokenRequest {
    header: Header,
    claims: Value,
    key: KeyPair,
    scope: &'static str,
}

impl TokenRequest {
    fn of(okta: &MockOkta, key: &KeyPair) -> Self {
        let now = okta.now().as_second();
        let mut header = Header::new(key.algorithm);
        header.kid = Some(key.kid.clone());
        let claims = json!({
            "iss": CLIENT_ID, "sub": CLIENT_ID, "aud": okta.token_url(),
            "iat": now, "exp": now + 300, "jti": uuid::Uuid::new_v4().to_string(),
        });
        Self {
            header,
            claims,
            key: key.clone(),
            scope: "okta.logs.read",
        }
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    fn request(&self, okta: &MockOkta) -> RequestBuilder {
        let pem = self.key.pem.as_bytes();
        let key = match self.header.alg {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem),
            _ => EncodingKey::from_ec_pem(pem),
        };
        let assertion = encode(&self.header, &self.claims, &key.unwrap()).unwrap();
        // Nothing in these values has to be escaped.
        let form = [
            "grant_type=client_credentials",
            &format!("scope={}", self.scope),
            "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            &format!("client_assertion={assertion}"),
        ]
        .join("&");
        let request = CLIENT.post(okta.token_url()).body(form);
        request.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
    }

    async fn send(&self, okta: &MockOkta) -> (u16, Value) {
        let answer = within(self.request(okta).send()).await;
        let page = read(answer).await.unwrap();
        (page.status, page.json())
    }
}

async fn bearer(okta: &MockOkta, token: &Value) -> u16 {
    let token = format!("Bearer {}", token.as_str().unwrap());
    let request = CLIENT.get(okta.logs_url()).header(AUTHORIZATION, token);
    within(request.send()).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_token_is_issued_for_a_signed_assertion_and_ends() {
    let okta = MockOkta::start();
    for key in [okta.new_rsa_key(), okta.new_ec_key()] {
        let (status, answer) = TokenRequest::of(&okta, &key).send(&okta).await;
        assert_eq!((status, &answer["token_type"]), (200, &json!("Bearer")));
        assert_eq!(answer["expires_in"], 3_600);
        assert_eq!(bearer(&okta, &answer["access_token"]).await, 200);
        okta.revoke_tokens();
        assert_eq!(bearer(&okta, &answer["access_token"]).await, 401);
    }
    okta.set_token_life(Duration::from_millis(200));
    let key = okta.new_ec_key();
    let (_, answer) = TokenRequest::of(&okta, &key).send(&okta).await;
    eventually("the token's end", async || {
        (bearer(&okta, &answer["access_token"]).await == 401).then_some(())
    })
    .await;
    assert_eq!(okta.tokens_issued(), 3);
    assert_eq!(okta.token_refusals(), [""; 0]);

    let scheme = |okta: &MockOkta| okta.requests().pop().unwrap().scheme;
    assert_eq!(scheme(&okta), Scheme::Bearer);
    assert_eq!(logs(&okta, "").await.status, 200);
    assert_eq!(scheme(&okta), Scheme::Ssws);
    for (header, seen) in [
        (None, Scheme::Nothing),
        (Some("SSWS another"), Scheme::Ssws),
        (Some("DPoP a.b.c"), Scheme::Other),
    ] {
        let mut request = CLIENT.get(okta.logs_url());
        if let Some(header) = header {
            request = request.header(AUTHORIZATION, header);
        }
        let page = read(within(request.send()).await).await.unwrap();
        assert_eq!((page.status, page.error_code().as_str()), (401, "E0000011"));
        assert_eq!(scheme(&okta), seen);
    }
}

#[tokio::test]
async fn an_assertion_that_is_wrong_in_any_part_is_refused() {
    let okta = MockOkta::start();
    let key = okta.new_ec_key();
    let good = || TokenRequest::of(&okta, &key);
    let now = okta.now().as_second();

    let mut other_key = good();
    other_key.key = KeyPair::ec();
    let mut unknown_key = good();
    unknown_key.header.kid = Some("unknown".to_owned());
    let used = good();
    assert_eq!(used.send(&okta).await.0, 200);
    // Without a kid it is the only key.
    let mut only_key = good();
    only_key.header.kid = None;
    assert_eq!(only_key.send(&okta).await.0, 200);
    for (request, reason) in [
        (other_key, "the signature: InvalidSignature"),
        (unknown_key, "no key of that kid"),
        (used, "jti was used before"),
        (good().claim("jti", Value::Null), "no jti"),
        (
            good().claim("aud", okta.url()),
            &format!("aud is \"{}\"", okta.url()),
        ),
        (
            good().claim("sub", "another"),
            "iss or sub is not the client id",
        ),
        (
            good().claim("iss", "another"),
            "iss or sub is not the client id",
        ),
        (good().claim("exp", now), "exp is past"),
        (
            good().claim("exp", now + 4_000),
            "exp is more than an hour away",
        ),
        (good().claim("iat", now + 400), "iat is in the future"),
    ] {
        let (status, answer) = request.send(&okta).await;
        assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")));
        assert_eq!(okta.token_refusals().last().unwrap(), reason);
    }
    let mut scope = good();
    scope.scope = "okta.users.read";
    let (status, answer) = scope.send(&okta).await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_scope")));

    okta.queue_token_fault(TokenFault::ServerError);
    okta.queue_token_fault(TokenFault::UseDpopNonce);
    assert_eq!(good().send(&okta).await.0, 500);
    let answer = within(good().request(&okta).send()).await.unwrap();
    assert!(answer.headers().contains_key("dpop-nonce"));
    let answer = read(Ok(answer)).await.unwrap();
    assert_eq!(answer.json()["error"], "use_dpop_nonce");
    assert_eq!(good().send(&okta).await.0, 200);
    assert_eq!(okta.tokens_issued(), 3);
    assert_eq!(okta.token_refusals().len(), 11);
}
