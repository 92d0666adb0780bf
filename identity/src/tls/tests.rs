use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ClientConnection, NamedGroup, ServerConnection};

use super::*;
use crate::test_pki::{self, HOUR, Pki, WORKLOAD, set_validity, uri};
use crate::{Identity, Svid};

const MINUTE: Duration = Duration::from_secs(60);

/// What came of a handshake: the connections, or which side refused and why.
type Outcome = Result<(ClientConnection, ServerConnection), String>;

/// A real handshake, in memory.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut moved = !bytes.is_empty();
        while !bytes.is_empty() {
            let read = server.read_tls(&mut bytes.as_slice()).unwrap();
            bytes.drain(..read);
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        moved |= !bytes.is_empty();
        while !bytes.is_empty() {
            let read = client.read_tls(&mut bytes.as_slice()).unwrap();
            bytes.drain(..read);
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
        if !moved {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok((client, server));
        }
    }
}

/// Whether a peer with `bad` for its identity is accepted by a good server, and by a good client.
fn outcomes(good: &Source, bad: &Source, clock: &Clock) -> (Outcome, Outcome) {
    let config_of_client = |source| client_config(source, clock.clone(), vec![WORKLOAD.parse().unwrap()], H2);
    let config_of_server = |source| server_config(source, clock.clone(), ClientAuth::Required, H2);
    let as_client = handshake(&config_of_client(bad), &config_of_server(good));
    let as_server = handshake(&config_of_client(good), &config_of_server(bad));
    (as_client, as_server)
}

#[track_caller]
fn assert_refused(outcome: &Outcome, side: &str, reason: &str, case: &str) {
    match outcome {
        Ok(_) => panic!("{case}: accepted"),
        Err(error) => assert!(error.starts_with(side) && error.contains(reason), "{case}: {error}"),
    }
}

#[test]
fn good_peers_know_each_other() {
    let (clock, now) = test_pki::clock();
    let source = Pki::new(now).source(WORKLOAD, |_| {});
    let (as_client, as_server) = outcomes(&source, &source, &clock);
    let (client, server) = as_client.unwrap();
    as_server.unwrap();
    let expected = Peer {
        id: WORKLOAD.parse().unwrap(),
        not_after: Timestamp::from_second((now + HOUR).as_second()).unwrap(),
        serial: "0abc".to_owned(),
    };
    assert_eq!((peer(&client), peer(&server)), (Some(expected.clone()), Some(expected)));
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn the_key_exchange_is_post_quantum_and_sessions_are_never_resumed() {
    let (clock, now) = test_pki::clock();
    let source = Pki::new(now).source(WORKLOAD, |_| {});
    let client = client_config(&source, clock.clone(), vec![WORKLOAD.parse().unwrap()], H2);
    let server = server_config(&source, clock, ClientAuth::Required, H2);
    // One that would resume, if only the server helped.
    let mut keen = (*client).clone();
    keen.resumption = Resumption::in_memory_sessions(8);
    let keen = Arc::new(keen);
    for client in [&client, &client, &keen, &keen] {
        let (client, server) = handshake(client, &server).unwrap();
        for connection in [&*client as &CommonState, &*server] {
            let group = connection.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
            assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        }
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn a_session_that_is_resumed_all_the_same_has_no_peer() {
    let (clock, now) = test_pki::clock();
    let source = Pki::new(now).source(WORKLOAD, |_| {});
    // Both sides as somebody might set them who does not know better.
    let mut client = (*client_config(&source, clock.clone(), vec![WORKLOAD.parse().unwrap()], H2)).clone();
    client.resumption = Resumption::in_memory_sessions(8);
    let mut server = (*server_config(&source, clock.clone(), ClientAuth::Required, H2)).clone();
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    server.send_tls13_tickets = 1;
    let (client, server) = (Arc::new(client), Arc::new(server));
    let (first, _) = handshake(&client, &server).unwrap();
    assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
    // Its certificate has ended since, and nobody looks at that again.
    clock.advance(2 * HOUR);
    let (resumed, of_server) = handshake(&client, &server).unwrap();
    assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!((peer(&resumed), peer(&of_server)), (None, None));
}

/// Whatever else the library could speak.
#[test]
fn a_peer_that_speaks_no_better_than_tls_12_is_refused() {
    let (clock, now) = test_pki::clock();
    let source = Pki::new(now).source(WORKLOAD, |_| {});
    let old = &[&rustls::version::TLS12];
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        || Arc::new(Verifier::new(Trust::Current(source.clone()), Allowed::Any, ClientAuth::Required));
    let certificate = || Arc::new(CurrentCertificate(source.clone()));
    let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(old).unwrap();
    let client = client.dangerous().with_custom_certificate_verifier(verifier());
    let client = Arc::new(client.with_client_cert_resolver(certificate()));
    let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(old).unwrap();
    let server = server.with_client_cert_verifier(verifier()).with_cert_resolver(certificate());
    let server = Arc::new(server);
    for auth in [ClientAuth::Required, ClientAuth::Optional, ClientAuth::OptionalWithGrace(MINUTE)] {
        let outcome = handshake(&client, &server_config(&source, clock.clone(), auth, &[]));
        assert_refused(&outcome, "server", "peer is incompatible: Tls12NotOfferedOrEnabled", "client");
    }
    let allowed = vec![WORKLOAD.parse().unwrap()];
    let anonymous =
        anonymous_client_config(source.current().bundle.clone(), clock.clone(), allowed.clone(), &[]);
    for ours in [client_config(&source, clock, allowed, &[]), anonymous] {
        assert_refused(&handshake(&ours, &server), "server", "peer is incompatible", "server");
    }
}

type Spoil = fn(&mut CertificateParams, Timestamp);

#[test]
fn bad_peers_are_refused_on_both_sides() {
    let table: &[(&str, Spoil, &str)] = &[
        ("two IDs", |p, _| p.subject_alt_names.push(uri("spiffe://test.example/x")), "2 URI names"),
        ("no ID", |p, _| p.subject_alt_names.clear(), "0 URI names"),
        ("no SPIFFE ID", |p, _| p.subject_alt_names = vec![uri("https://test.example/x")], "not a SPIFFE ID"),
        ("an authority's ID", |p, _| p.subject_alt_names = vec![uri("spiffe://test.example")], "has no path"),
        (
            "foreign",
            |p, _| p.subject_alt_names = vec![uri("spiffe://evil.example/ns/a/sa/b")],
            "not of the trust domain",
        ),
        ("CA", |p, _| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "CA:TRUE"),
        ("no key usage", |p, _| p.key_usages.clear(), "digitalSignature"),
        ("wrong key usage", |p, _| p.key_usages = vec![KeyUsagePurpose::KeyAgreement], "digitalSignature"),
        ("may sign", |p, _| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "keyCertSign"),
        ("may sign CRLs", |p, _| p.key_usages.push(KeyUsagePurpose::CrlSign), "cRLSign"),
        (
            "other usage",
            |p, _| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            "not valid",
        ),
        ("expired", |p, now| set_validity(p, now - HOUR, now - MINUTE), "expired"),
        ("not yet valid", |p, now| set_validity(p, now + MINUTE, now + HOUR), "not valid yet"),
    ];
    let (clock, now) = test_pki::clock();
    let pki = Pki::new(now);
    let good = pki.source(WORKLOAD, |_| {});
    for (case, spoil, reason) in table {
        let bad = pki.source(WORKLOAD, |params| spoil(params, now));
        let (as_client, as_server) = outcomes(&good, &bad, &clock);
        assert_refused(&as_client, "server", reason, case);
        assert_refused(&as_server, "client", reason, case);
    }
}

#[test]
fn a_name_in_a_form_that_not_everybody_reads_is_refused_on_both_sides() {
    let (clock, now) = test_pki::clock();
    let pki = Pki::new(now);
    let good = pki.source(WORKLOAD, |_| {});
    let names = |tag: u8| {
        let length = u8::try_from(WORKLOAD.len()).unwrap();
        [&[0x30, length + 2, tag, length], WORKLOAD.as_bytes()].concat()
    };
    let with = |content: Vec<u8>| {
        pki.source(WORKLOAD, |params| {
            params.subject_alt_names.clear();
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
            params.custom_extensions = vec![extension];
        })
    };
    let (as_client, as_server) = outcomes(&good, &with(names(0x86)), &clock);
    assert!(as_client.is_ok() && as_server.is_ok(), "written so, it is the name of any other");
    // The same, but that it says to be made of parts: the parser of X.509 takes it, and webpki does not.
    let bad = with(names(0xa6));
    assert_eq!(leaf::read(&bad.current().svid.chain[0]).unwrap().id.as_str(), WORKLOAD);
    let (as_client, as_server) = outcomes(&good, &bad, &clock);
    assert_refused(&as_client, "server", "0 URI names", "a name in parts");
    assert_refused(&as_server, "client", "0 URI names", "a name in parts");
}

#[test]
fn a_certificate_for_one_side_alone_is_refused_on_the_other() {
    let (clock, now) = test_pki::clock();
    let pki = Pki::new(now);
    let good = pki.source(WORKLOAD, |_| {});
    let for_client =
        pki.source(WORKLOAD, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let (as_client, as_server) = outcomes(&good, &for_client, &clock);
    assert!(as_client.is_ok());
    assert_refused(&as_server, "client", "not valid", "a client's certificate as a server's");
}

#[test]
fn bad_authorities_are_refused() {
    let (clock, now) = test_pki::clock();
    let nothing = |_: &mut CertificateParams| {};
    let good = Pki::new(now);
    let good_source = good.source(WORKLOAD, |_| {});

    let stranger = Pki::new(now).source(WORKLOAD, |_| {});
    stranger.replace(Identity { svid: stranger.current().svid.clone(), bundle: good.bundle() });
    let (as_client, as_server) = outcomes(&good_source, &stranger, &clock);
    // Its root has the name of ours, so the signature gives it away.
    assert_refused(&as_client, "server", "InvalidSignatureForPublicKey", "unknown root");
    assert_refused(&as_server, "client", "InvalidSignatureForPublicKey", "unknown root");

    // In these, the leaf is good, and everybody trusts its root.
    let expired = |p: &mut CertificateParams| set_validity(p, now - 2 * HOUR, now - HOUR);
    let table = [
        ("expired root", Pki::with_authorities(now, expired, nothing), "UnknownIssuer"),
        ("expired issuer", Pki::with_authorities(now, nothing, expired), "expired"),
        (
            "issuer that may not sign",
            Pki::with_authorities(now, nothing, |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
            "keyCertSign",
        ),
        (
            "issuer that is none",
            Pki::with_authorities(now, nothing, |p| p.is_ca = IsCa::ExplicitNoCa),
            "not valid",
        ),
    ];
    for (case, pki, reason) in table {
        let source = pki.source(WORKLOAD, |_| {});
        let (as_client, as_server) = outcomes(&source, &source, &clock);
        assert_refused(&as_client, "client", reason, case);
        assert_refused(&as_server, "client", reason, case);
    }
}

#[test]
fn chains_that_are_too_long_are_refused_unread() {
    let (clock, now) = test_pki::clock();
    let pki = Pki::new(now);
    let good = pki.source(WORKLOAD, |_| {});
    let key = KeyPair::generate().unwrap();
    let leaf = test_pki::leaf_params(WORKLOAD, now).signed_by(&key, &pki.issuing).unwrap();
    let mut chain: Vec<CertificateDer<'static>> = vec![leaf.into()];
    chain.extend(std::iter::repeat_n(pki.issuing.der().clone(), path::INTERMEDIATES_MAX));
    let (as_client, _) = outcomes(&good, &pki.source_of(chain.clone(), &key), &clock);
    assert!(as_client.is_ok(), "at the limit: {as_client:?}");
    chain.push(pki.issuing.der().clone());
    let (as_client, as_server) = outcomes(&good, &pki.source_of(chain.clone(), &key), &clock);
    assert_refused(&as_client, "server", "too long", "many certificates");
    assert_refused(&as_server, "client", "too long", "many certificates");
    chain.truncate(1);
    chain.push(vec![0x30; leaf::CERTIFICATE_LENGTH_MAX + 1].into());
    let (as_client, _) = outcomes(&good, &pki.source_of(chain, &key), &clock);
    assert_refused(&as_client, "server", "too long", "a long certificate");
}

#[test]
fn a_server_must_be_one_of_the_allowed() {
    let (clock, now) = test_pki::clock();
    let source = Pki::new(now).source(WORKLOAD, |_| {});
    let server = server_config(&source, clock.clone(), ClientAuth::Required, H2);
    let other: SpiffeId = "spiffe://test.example/ns/a/sa/other".parse().unwrap();
    for allowed in [vec![], vec![other.clone()]] {
        let client = client_config(&source, clock.clone(), allowed, H2);
        assert_refused(&handshake(&client, &server), "client", "not among the allowed", "other server");
    }
    let client = client_config(&source, clock, vec![other, WORKLOAD.parse().unwrap()], H2);
    assert!(handshake(&client, &server).is_ok());
}

#[test]
fn a_client_without_certificate_is_let_in_only_where_that_is_optional() {
    let (clock, now) = test_pki::clock();
    let pki = Pki::new(now);
    let source = pki.source(WORKLOAD, |_| {});
    let client = anonymous_client_config(pki.bundle(), clock.clone(), vec![WORKLOAD.parse().unwrap()], H2);
    let required = server_config(&source, clock.clone(), ClientAuth::Required, H2);
    assert_refused(&handshake(&client, &required), "server", "no certificates", "required");
    let optional = server_config(&source, clock, ClientAuth::Optional, H2);
    let (_, server) = handshake(&client, &optional).unwrap();
    assert_eq!(peer(&server), None);
}

#[test]
fn grace_lets_in_what_expired_lately_and_nothing_else() {
    let (clock, now) = test_pki::clock();
    let pki = Pki::new(now);
    let good = pki.source(WORKLOAD, |_| {});
    let server = server_config(&good, clock.clone(), ClientAuth::OptionalWithGrace(10 * MINUTE), H2);
    let expired_for = |age: Duration| {
        let source = pki.source(WORKLOAD, |p| set_validity(p, now - HOUR, now - age));
        handshake(&client_config(&source, clock.clone(), vec![WORKLOAD.parse().unwrap()], H2), &server)
    };
    let (_, server_side) = expired_for(9 * MINUTE).unwrap();
    assert!(peer(&server_side).unwrap().not_after < now);
    assert_refused(&expired_for(11 * MINUTE), "server", "expired", "after the grace");
    // A server's certificate has no grace.
    let client = client_config(&good, clock.clone(), vec![WORKLOAD.parse().unwrap()], H2);
    let late = pki.source(WORKLOAD, |p| set_validity(p, now - HOUR, now - MINUTE));
    let late = server_config(&late, clock, ClientAuth::OptionalWithGrace(10 * MINUTE), H2);
    assert_refused(&handshake(&client, &late), "client", "expired", "server");
}

#[test]
fn each_handshake_uses_the_certificate_roots_and_time_of_its_moment() {
    let (clock, now) = test_pki::clock();
    let (old, new) = (Pki::new(now), Pki::new(now));
    let server_source = old.source(WORKLOAD, |_| {});
    let client_source = old.source(WORKLOAD, |_| {});
    let server = server_config(&server_source, clock.clone(), ClientAuth::Required, H2);
    let client = client_config(&client_source, clock.clone(), vec![WORKLOAD.parse().unwrap()], H2);
    assert!(handshake(&client, &server).is_ok());

    server_source.replace((*new.source(WORKLOAD, |_| {}).current()).clone());
    assert_refused(&handshake(&client, &server), "client", "", "the server's root is new");
    client_source.replace((*new.source(WORKLOAD, |_| {}).current()).clone());
    assert!(handshake(&client, &server).is_ok());

    clock.advance(2 * HOUR);
    assert_refused(&handshake(&client, &server), "client", "expired", "time has passed");
}

#[test]
fn an_svid_is_made_only_of_parts_that_fit() {
    let (_, now) = test_pki::clock();
    let pki = Pki::new(now);
    let chain_for = |key: &KeyPair| {
        let leaf = test_pki::leaf_params(WORKLOAD, now).signed_by(key, &pki.issuing).unwrap();
        vec![CertificateDer::from(leaf), pki.issuing.der().clone()]
    };
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let private = |key: &KeyPair| rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let svid = Svid::new(chain_for(&key), &private(&key)).unwrap();
    assert_eq!((svid.id.as_str(), svid.serial.as_str()), (WORKLOAD, "0abc"));
    assert!(!format!("{svid:?}").contains("key"));
    assert!(Svid::new(chain_for(&key), &private(&other)).is_err());
    assert!(Svid::new(Vec::new(), &private(&key)).is_err());
    assert!(Svid::new(vec![pki.issuing.der().clone()], &private(&key)).is_err());
}
