//! Key pairs of a client, made anew in each run, in the two forms in which Okta hands them out.
//!
//! PEM and JWK of a pair are the same key. The numbers of an RSA key are read from its DER, because
//! the library that makes it gives only the public ones.

use aws_lc_rs::encoding::{AsBigEndian as _, AsDer as _, EcPrivateKeyBin, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};

/// A private key that can sign assertions.
#[derive(Clone, Debug)]
pub(crate) struct KeyPair {
    pub(crate) kid: String,
    /// `RS256` or `ES256`.
    pub(crate) algorithm: Algorithm,
    /// PKCS #8.
    pub(crate) pem: String,
    /// The private key as a JWK, with `kid` and `alg`.
    pub(crate) jwk: Value,
}

impl KeyPair {
    /// A key of 2048 bits, which no org knows yet.
    pub(crate) fn rsa() -> Self {
        let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let kid = new_kid();
        let mut jwk = json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid});
        for (name, number) in ["n", "e", "d", "p", "q", "dp", "dq", "qi"]
            .into_iter()
            .zip(rsa_numbers(der.as_ref()))
        {
            jwk[name] = text(number).into();
        }
        Self {
            kid,
            algorithm: Algorithm::RS256,
            pem: pem(der.as_ref()),
            jwk,
        }
    }

    /// A key on the curve P-256, which no org knows yet.
    pub(crate) fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let secret: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().unwrap();
        // A byte for the form of the point, then its two coordinates.
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let kid = new_kid();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
            "x": text(x), "y": text(y), "d": text(secret.as_ref()),
        });
        Self {
            kid,
            algorithm: Algorithm::ES256,
            pem: pem(pair.to_pkcs8v1().unwrap().as_ref()),
            jwk,
        }
    }

    /// The public half.
    pub(super) fn public_key(&self) -> DecodingKey {
        let part = |name: &str| self.jwk[name].as_str().unwrap();
        match self.algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_components(part("n"), part("e")),
            _ => DecodingKey::from_ec_components(part("x"), part("y")),
        }
        .unwrap()
    }
}

fn new_kid() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn text(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut lines = vec!["-----BEGIN PRIVATE KEY-----"];
    // Base64 is ASCII, so a line may end anywhere.
    lines.extend((0..text.len()).step_by(64).map(|at| {
        let end = text.len().min(at + 64);
        &text[at..end]
    }));
    lines.push("-----END PRIVATE KEY-----\n");
    lines.join("\n")
}

/// The numbers of an RSA key in PKCS #8: n, e, d, p, q, dp, dq, qi.
fn rsa_numbers(pkcs8: &[u8]) -> Vec<&[u8]> {
    // A sequence of version, algorithm, and a text of bytes that is the key by itself.
    let (outer, _) = contents(pkcs8);
    let (_version, rest) = contents(outer);
    let (_algorithm, rest) = contents(rest);
    let (key, _) = contents(rest);
    // A sequence of version and numbers.
    let (numbers, _) = contents(key);
    let (_version, mut rest) = contents(numbers);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (number, behind) = contents(rest);
        // A zero keeps the first bit from being a sign.
        found.push(number.strip_prefix(&[0]).unwrap_or(number));
        rest = behind;
    }
    found
}

/// What is in the DER value at the beginning, and what is behind it.
fn contents(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, head) = if der[1] < 0x80 {
        (usize::from(der[1]), 2)
    } else {
        let head = 2 + usize::from(der[1] & 0x7f);
        let length = der[2..head].iter();
        let length = length.fold(0, |length, byte| (length << 8) | usize::from(*byte));
        (length, head)
    };
    der[head..].split_at(length)
}

#[test]
fn a_jwk_is_the_same_key_as_its_pem() {
    let bytes = |key: &KeyPair, name: &str| {
        let part = key.jwk[name].as_str().unwrap();
        BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()
    };
    let of_pem = |key: &KeyPair| -> Vec<u8> {
        let lines = key.pem.lines().filter(|line| !line.starts_with('-'));
        BASE64_STANDARD.decode(lines.collect::<String>()).unwrap()
    };

    let key = KeyPair::ec();
    let point = [vec![4], bytes(&key, "x"), bytes(&key, "y")].concat();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    // Refuses halves that do not belong together.
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &bytes(&key, "d"), &point).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, &of_pem(&key)).unwrap();
    assert_eq!(pair.public_key().as_ref(), point);

    let key = KeyPair::rsa();
    let pair = aws_lc_rs::rsa::KeyPair::from_pkcs8(&of_pem(&key)).unwrap();
    let modulus = pair.public_key().modulus();
    assert_eq!(modulus.big_endian_without_leading_zero(), bytes(&key, "n"));
    assert_eq!(bytes(&key, "e"), [1, 0, 1]);
    assert_eq!(rsa_numbers(&of_pem(&key)).len(), 8);
    // Its first bytes may be zero, and then they are not written.
    assert!((240..=256).contains(&bytes(&key, "d").len()));
}
