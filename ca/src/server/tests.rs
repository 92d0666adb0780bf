use std::sync::Arc;

use daemon::Metrics;
use tonic::Code;

use super::*;
use crate::registry::tests::{Case, ID, csr};

fn service(registry: Registry) -> Service {
    Service::new(Arc::new(registry), Arc::new(CaMetrics::new(&Metrics::new())), Clock::system())
}

async fn attest(service: &Service, join_token: String, csr: Vec<u8>) -> Code {
    let request = Request::new(AttestRequest { join_token, csr: csr.into() });
    service.attest(request).await.map_or_else(|status| status.code(), |_answer| Code::Ok)
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let case = Case::starting_at(Clock::system().now());
    let (token, used) = (case.token(ID, "x-1"), case.token(ID, "x-2"));
    case.registry.attest(&used, &csr(), case.now).unwrap();
    let service = service(case.registry);
    let table = [
        ("a long token", "x".repeat(TOKEN_LENGTH_MAX + 1), csr(), Code::InvalidArgument),
        ("a bad CSR", token.clone(), b"garbage".to_vec(), Code::InvalidArgument),
        ("an unknown token", "guess".to_owned(), csr(), Code::PermissionDenied),
        ("a used token", used, csr(), Code::PermissionDenied),
        ("a good token", token, csr(), Code::Ok),
    ];
    for (name, token, csr, expected) in table {
        assert_eq!(attest(&service, token, csr).await, expected, "{name}");
    }
    let renewal = service.renew(Request::new(RenewRequest { csr: csr().into() })).await;
    assert_eq!(renewal.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn more_calls_than_can_be_signed_are_told_to_come_back() {
    let case = Case::starting_at(Clock::system().now());
    let token = case.token(ID, "x-1");
    let service = service(case.registry);
    let all = service.signing.acquire_many(u32::try_from(SIGNING_MAX).unwrap()).await.unwrap();
    assert_eq!(attest(&service, token.clone(), csr()).await, Code::ResourceExhausted);
    drop(all);
    assert_eq!(attest(&service, token, csr()).await, Code::Ok);
}

#[tokio::test]
async fn a_ledger_that_fails_gives_out_nothing_and_is_worth_another_try() {
    let case = Case::starting_at(Clock::system().now());
    let token = case.token(ID, "x-1");
    let raw = rusqlite::Connection::open(case.ledger_path()).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    raw.execute_batch(full).unwrap();
    let service = service(case.registry);
    assert_eq!(attest(&service, token.clone(), csr()).await, Code::Unavailable);
    raw.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(attest(&service, token, csr()).await, Code::Ok);
}
