use api::config::KeySource;
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jwt::test_tokens::*;

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn keys() -> KeySet {
    let keys = [
        RSA.jwk("rsa"),
        EC.jwk("ec"),
        EC_384.jwk("ec-384"),
        ED.jwk("ed"),
        OTHER_EC.jwk_with(&json!({"kid": "bound", "alg": "ES256", "use": "sig", "key_ops": ["verify"]})),
    ];
    KeySet::parse(key_set(&keys).as_bytes()).unwrap()
}

fn trusted() -> TokenIssuer {
    issuer(KeySource::Text(String::new()))
}

fn check(token: &str) -> Result<Claims, Wrong> {
    verify(token, &keys(), &trusted(), now()).map(|verified| verified.claims)
}

/// What comes of a token that differs from a good one in these claims.
fn check_claims(others: &Value) -> Result<Claims, Wrong> {
    check(&EC.sign("ec", &claims_with(now(), others)))
}

#[test]
fn tokens_of_every_algorithm_are_good() {
    let claims = claims(now()).to_string();
    let of = |signer: &Signer, id: &str, algorithm: Algorithm| {
        signer.sign_as(algorithm, &json!({"alg": algorithm, "kid": id}).to_string(), &claims)
    };
    for algorithm in [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ] {
        assert!(check(&of(&RSA, "rsa", algorithm)).is_ok(), "{algorithm:?}");
    }
    for (signer, id) in [(&*EC, "ec"), (&*EC_384, "ec-384"), (&*ED, "ed"), (&*OTHER_EC, "bound")] {
        assert!(check(&of(signer, id, signer.algorithm)).is_ok(), "{id}");
    }
}

#[test]
fn a_good_token_says_who_somebody_is() {
    let token = EC.sign("ec", &claims_with(now(), &json!({"realm": {"roles": ["x"]}, "vip": true})));
    let verified = verify(&token, &keys(), &trusted(), now()).unwrap();
    let get = |name| verified.claims.get(name);
    assert_eq!((get("sub"), get("groups"), get("roles")), (Some("ann"), Some("a,b"), Some("x")));
    assert_eq!((get("vip"), get("realm"), get("iss")), (Some("true"), None, Some(ISSUER)));
    assert_eq!(verified.until, now() + SignedDuration::from_secs(3660));
    assert_eq!(alleged_issuer(&token), Ok(ISSUER.to_owned()));
}

#[test]
fn tokens_that_nobody_signed_so_are_refused() {
    let good = claims(now()).to_string();
    let token = EC.sign("ec", &claims(now()));
    let parts: Vec<&str> = token.split('.').collect();
    let header = |json: Value| EC.sign_texts(&json.to_string(), &good);
    let unsigned = |algorithm: &str| {
        let header = json!({"alg": algorithm, "kid": "ec"}).to_string();
        format!("{}.{}.", base64(header.as_bytes()), base64(good.as_bytes()))
    };
    // The public key is no secret: whoever takes it for one can be told anything.
    let confused = |secret: &[u8]| {
        let header = json!({"alg": "HS256", "kid": "rsa"}).to_string();
        sign(&EncodingKey::from_secret(secret), Algorithm::HS256, &header, &good)
    };
    let own_key = json!({"alg": "ES256", "jwk": OTHER_EC.jwk("ec"), "kid": "ec"}).to_string();
    let table: Vec<(&str, String, Wrong)> = vec![
        ("nothing", String::new(), Wrong::Malformed),
        ("one part", parts[0].to_owned(), Wrong::Malformed),
        ("two parts", format!("{}.{}", parts[0], parts[1]), Wrong::Malformed),
        ("four parts", format!("{token}.{}", parts[2]), Wrong::Malformed),
        ("five parts, as JWE has", format!("{token}.a.b"), Wrong::Malformed),
        ("no base64", format!("{}.{}.{}", parts[0], parts[1], "%"), Wrong::Malformed),
        ("padding", format!("{}.{}.{}=", parts[0], parts[1], parts[2]), Wrong::Malformed),
        ("no JSON", EC.sign_texts("alg", &good), Wrong::Malformed),
        ("no algorithm", EC.sign_texts(r#"{"kid":"ec"}"#, &good), Wrong::Algorithm),
        ("two algorithms", EC.sign_texts(r#"{"alg":"ES256","alg":"ES256"}"#, &good), Wrong::Algorithm),
        ("none", unsigned("none"), Wrong::Algorithm),
        ("None", unsigned("None"), Wrong::Algorithm),
        ("no signature", unsigned("ES256"), Wrong::Signature),
        ("HMAC by the public key", confused(RSA.jwk("rsa").to_string().as_bytes()), Wrong::Algorithm),
        ("HMAC by nothing", confused(b""), Wrong::Algorithm),
        ("an unknown key", EC.sign("ec-2", &claims(now())), Wrong::UnknownKey),
        ("another's key", OTHER_EC.sign("ec", &claims(now())), Wrong::Signature),
        ("a key of another type", RSA.sign("ec", &claims(now())), Wrong::UnknownKey),
        ("its own key", OTHER_EC.sign_texts(&own_key, &good), Wrong::Signature),
        ("another algorithm than the key's", header(json!({"alg": "RS256", "kid": "ec"})), Wrong::UnknownKey),
        (
            "critical",
            header(json!({"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": false})),
            Wrong::Critical,
        ),
        ("critical, but nothing", header(json!({"alg": "ES256", "kid": "ec", "crit": []})), Wrong::Critical),
        ("another's claims", format!("{}.{}.{}", parts[0], base64(b"{}"), parts[2]), Wrong::Signature),
        ("huge", format!("{token}{}", "A".repeat(LENGTH_MAX)), Wrong::TooLong),
    ];
    for (what, token, wrong) in table {
        assert_eq!(check(&token), Err(wrong), "{what}");
    }
}

#[test]
fn a_key_that_no_token_names_is_found_among_those_that_suit() {
    let unnamed = |signer: &Signer| {
        signer.sign_texts(&json!({"alg": signer.algorithm}).to_string(), &claims(now()).to_string())
    };
    assert!(
        check(&unnamed(&EC)).is_ok() && check(&unnamed(&OTHER_EC)).is_ok() && check(&unnamed(&ED)).is_ok()
    );
    let one = KeySet::parse(key_set(&[EC.jwk("ec")]).as_bytes()).unwrap();
    let verify = |token: &str| verify(token, &one, &trusted(), now()).err();
    assert_eq!(verify(&unnamed(&OTHER_EC)), Some(Wrong::Signature));
    assert_eq!(verify(&unnamed(&ED)), Some(Wrong::UnknownKey));
}

#[test]
fn claims_are_looked_at_with_the_clocks_skew() {
    let at = now().as_second();
    let table = [
        (json!({"exp": null}), Some(Wrong::NoExpiry)),
        (json!({"exp": "tomorrow"}), Some(Wrong::Claims)),
        (json!({"exp": at - 59}), None),
        (json!({"exp": at - 60}), Some(Wrong::Expired)),
        (json!({"exp": -1}), Some(Wrong::Expired)),
        (json!({"exp": 1e300}), None),
        (json!({"exp": -1e300}), Some(Wrong::Expired)),
        (json!({"nbf": at + 60}), None),
        (json!({"nbf": at + 61}), Some(Wrong::NotYet)),
        (json!({"nbf": "now"}), Some(Wrong::Claims)),
        (json!({"iat": at + 61}), Some(Wrong::NotYet)),
        (json!({"iat": null, "nbf": null}), None),
        (json!({"iss": null}), Some(Wrong::Issuer)),
        (json!({"iss": "https://accounts.example/"}), Some(Wrong::Issuer)),
        (json!({"iss": [ISSUER]}), Some(Wrong::Issuer)),
        (json!({"aud": null}), Some(Wrong::Audience)),
        (json!({"aud": "shops"}), Some(Wrong::Audience)),
        (json!({"aud": []}), Some(Wrong::Audience)),
        (json!({"aud": {"shop": true}}), Some(Wrong::Audience)),
        (json!({"aud": ["mail", "shop-api"]}), None),
        (json!({"sub": 7}), Some(Wrong::Subject)),
        (json!({"sub": null}), None),
    ];
    for (others, wrong) in table {
        assert_eq!(check_claims(&others).err(), wrong, "{others}");
    }
    let mut anybodys = trusted();
    anybodys.audiences.clear();
    let token = EC.sign("ec", &claims_with(now(), &json!({"aud": "mail"})));
    assert!(verify(&token, &keys(), &anybodys, now()).is_ok());
}

#[test]
fn claims_that_stand_there_twice_are_refused() {
    let twice = |name: &str| {
        let good = claims(now()).to_string();
        let claims = format!("{{\"{name}\":\"x\",{}", good.strip_prefix('{').unwrap());
        check(&EC.sign_texts(r#"{"alg":"ES256","kid":"ec"}"#, &claims)).err()
    };
    for name in ["sub", "groups", "aud", "exp", "iss"] {
        assert_eq!(twice(name), Some(Wrong::Claims), "{name}");
    }
    for claims in ["[]", "\"ann\"", "{", "7"] {
        let token = EC.sign_texts(r#"{"alg":"ES256","kid":"ec"}"#, claims);
        assert_eq!(check(&token).err(), Some(Wrong::Claims), "{claims}");
    }
}

#[test]
fn what_is_said_of_a_bad_token_can_stand_in_a_header() {
    let all = [
        Wrong::TooLong,
        Wrong::Malformed,
        Wrong::Algorithm,
        Wrong::Critical,
        Wrong::UnknownKey,
        Wrong::Signature,
        Wrong::Claims,
        Wrong::NoExpiry,
        Wrong::Expired,
        Wrong::NotYet,
        Wrong::Issuer,
        Wrong::Audience,
        Wrong::Subject,
    ];
    for wrong in all {
        let text = wrong.to_string();
        assert!(
            text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'),
            "{text}"
        );
    }
}

#[test]
fn keys_that_can_not_be_used_are_left_out() {
    let private = OTHER_EC.jwk_with(&json!({"kid": "a", "d": "AAAA"}));
    let oct = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"});
    let mut short = RSA.jwk("a");
    short["n"] = json!(base64(&[0xff; 128]));
    let mut cut = EC.jwk("a");
    cut["x"] = json!(base64(&[1; 31]));
    let unusable = [
        private,
        oct,
        short,
        cut,
        EC.jwk_with(&json!({"use": "enc"})),
        EC.jwk_with(&json!({"key_ops": ["sign"]})),
        EC.jwk_with(&json!({"alg": "HS256"})),
        EC.jwk_with(&json!({"alg": "RS256"})),
        EC.jwk_with(&json!({"alg": "ES384"})),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({"kty": "new"}),
        json!("key"),
    ];
    for key in &unusable {
        assert!(KeySet::parse(key_set(std::slice::from_ref(key)).as_bytes()).is_err(), "{key}");
    }
    let with_a_good_one: Vec<_> = unusable.iter().cloned().chain([EC.jwk("ec")]).collect();
    let set = KeySet::parse(key_set(&with_a_good_one).as_bytes()).unwrap();
    assert_eq!(set.unusable.len(), unusable.len(), "{:?}", set.unusable);
    assert!(verify(&EC.sign("ec", &claims(now())), &set, &trusted(), now()).is_ok());
    for text in ["", "{}", "[]", r#"{"keys": {}}"#, r#"{"keys": []}"#] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many = vec![EC.jwk("ec"); crate::jwt::keys::COUNT_MAX + 1];
    assert!(KeySet::parse(key_set(&many).as_bytes()).is_err());
    let large = " ".repeat(crate::jwt::keys::SIZE_MAX) + &key_set(&[EC.jwk("ec")]);
    assert!(KeySet::parse(large.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn a_token_is_refused_whichever_byte_was_changed(
        place in any::<prop::sample::Index>(),
        byte in 0x21u8..0x7f,
        which in 0..4usize,
    ) {
        let (signer, id) = [(&*RSA, "rsa"), (&*EC, "ec"), (&*EC_384, "ec-384"), (&*ED, "ed")][which];
        let token = signer.sign(id, &claims(now()));
        prop_assert!(check(&token).is_ok());
        let mut bytes = token.into_bytes();
        let place = place.index(bytes.len());
        prop_assume!(bytes[place] != byte);
        bytes[place] = byte;
        let tampered = String::from_utf8(bytes).unwrap();
        prop_assert!(check(&tampered).is_err(), "{}", tampered);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 3)) {
        prop_assert!(check(&text).is_err());
        prop_assert!(check(&parts.join(".")).is_err());
    }
}
