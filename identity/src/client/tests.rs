use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::test_pki::{self, HOUR, Pki, WORKLOAD, leaf_params, set_validity, uri};

/// What a CA would answer for `request`; `spoil` changes the certificate first.
fn answer(pki: &Pki, request: &Request, spoil: impl FnOnce(&mut CertificateParams)) -> CertificateResponse {
    let mut params = leaf_params(WORKLOAD, pki.now);
    spoil(&mut params);
    let leaf = params.signed_by(&request.key, &pki.issuing).unwrap();
    let bytes = |der: &[u8]| Bytes::copy_from_slice(der);
    CertificateResponse {
        chain: vec![bytes(leaf.der()), bytes(pki.issuing.der())],
        roots: vec![bytes(pki.root.der())],
    }
}

#[test]
fn a_good_answer_becomes_the_identity() {
    let (_, now) = test_pki::clock();
    let pki = Pki::new(now);
    let request = Request::new().unwrap();
    let good = answer(&pki, &request, |_| {});
    let identity = accept(&good, &request.key, &pki.bundle(), None, now).unwrap();
    assert_eq!((identity.svid.id.as_str(), identity.svid.chain.len()), (WORKLOAD, 2));
    let own = identity.svid.id;
    assert!(accept(&good, &request.key, &pki.bundle(), Some(&own), now).is_ok());
}

#[test]
fn new_roots_are_taken_over_beside_the_old() {
    let (_, now) = test_pki::clock();
    let (pki, next) = (Pki::new(now), Pki::new(now));
    let request = Request::new().unwrap();
    let mut good = answer(&pki, &request, |_| {});
    good.roots.push(Bytes::copy_from_slice(next.root.der()));
    let identity = accept(&good, &request.key, &pki.bundle(), None, now).unwrap();
    assert_eq!(identity.bundle.roots().len(), 2);
}

#[test]
fn an_answer_that_others_would_not_accept_is_not_accepted_here() {
    let (_, now) = test_pki::clock();
    let (pki, stranger) = (Pki::new(now), Pki::new(now));
    let request = Request::new().unwrap();
    let stranger_root = Bytes::copy_from_slice(stranger.root.der());
    let good = || answer(&pki, &request, |_| {});
    let expired = |p: &mut CertificateParams| set_validity(p, now - HOUR, now - HOUR / 2);
    let foreign = |p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://b.example/x")];
    let for_clients =
        |p: &mut CertificateParams| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let two_ids = |p: &mut CertificateParams| p.subject_alt_names.push(uri("spiffe://test.example/y"));
    let table = [
        ("another's key", answer(&pki, &Request::new().unwrap(), |_| {}), "bad certificate: the private key"),
        ("no chain", CertificateResponse { chain: Vec::new(), ..good() }, "the chain is empty"),
        ("no roots", CertificateResponse { roots: Vec::new(), ..good() }, "bad trust bundle"),
        ("a root not trusted before", answer(&stranger, &request, |_| {}), "would not accept"),
        (
            "roots that do not fit",
            CertificateResponse { roots: vec![stranger_root], ..good() },
            "would not accept",
        ),
        ("expired", answer(&pki, &request, expired), "would not accept"),
        ("foreign", answer(&pki, &request, foreign), "not of the trust domain"),
        ("for clients alone", answer(&pki, &request, for_clients), "would not accept"),
        ("two IDs", answer(&pki, &request, two_ids), "2 URI names"),
    ];
    for (case, answer, expected) in table {
        let error = accept(&answer, &request.key, &pki.bundle(), None, now).unwrap_err().to_string();
        assert!(error.contains(expected), "{case}: {error}");
    }
    let other = "spiffe://test.example/other".parse().unwrap();
    let changed = accept(&good(), &request.key, &pki.bundle(), Some(&other), now);
    assert!(matches!(changed, Err(ClientError::OtherId { .. })));
}

#[test]
fn only_what_may_pass_is_tried_again() {
    use tonic::Code::{
        Aborted, Cancelled, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, OutOfRange,
        PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented, Unknown,
    };
    let may_pass = |code| refused_or_unavailable(&tonic::Status::new(code, "why")).may_pass();
    for code in [Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown] {
        assert!(may_pass(code), "{code:?}");
    }
    for code in
        [FailedPrecondition, InvalidArgument, OutOfRange, PermissionDenied, Unauthenticated, Unimplemented]
    {
        assert!(!may_pass(code), "{code:?}");
    }
}
