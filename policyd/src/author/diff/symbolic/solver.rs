//! The solver: cvc5, a process of its own for each question.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cedar_policy::{Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, UnaryOp};
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::solver::{LocalSolver, WriterSolver};
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env};
use tokio::process::Command;

/// How the solver is run.
#[derive(Clone, Debug)]
pub struct Solver {
    /// The program, cvc5: a path, or a name that is looked for in `PATH`.
    pub program: PathBuf,
    /// How long it may take for one question.
    pub timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It took too long.
    #[error("the solver did not find an answer within {0:?}; see `--solver-timeout`")]
    Timeout(Duration),
    /// A policy is not to be told to it.
    #[error("the policies can't be told to the solver: {0}")]
    Encoding(String),
    /// It did not do as it should.
    #[error("the solver failed: {0}")]
    Solver(String),
}

/// How much longer than its own limit the solver is waited for, before it is ended.
const GRACE: Duration = Duration::from_secs(2);

impl Solver {
    /// Whether it can be run.
    ///
    /// # Errors
    /// When it can't: why, and what to do about it.
    pub(super) async fn check(&self) -> Result<(), String> {
        let program = self.program.display();
        let mut command = Command::new(&self.program);
        let command = command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(self.timeout + GRACE, command.output()).await {
            Ok(Ok(output)) if String::from_utf8_lossy(&output.stdout).contains("cvc5") => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(format!(
                "cvc5 was not found: no `{program}`; Debian has it in the package `cvc5`, and it can be fetched from https://github.com/cvc5/cvc5/releases; $CVC5 or --solver names another place"
            )),
            Ok(Err(error)) => Err(format!("`{program}` can't be run: {error}")),
            Ok(Ok(_)) | Err(_) => {
                Err(format!("`{program}` is not cvc5: it does not say so when asked for its version"))
            }
        }
    }

    /// A request that `allowing` allows and `denying` does not, if there is one.
    pub(super) async fn counterexample(
        &self,
        allowing: &CompiledPolicySet,
        denying: &CompiledPolicySet,
    ) -> Result<Option<Env>, Failure> {
        let mut compiler = self.start()?;
        let answer = compiler.check_implies_with_counterexample_opt(allowing, denying);
        self.in_time(answer).await
    }

    /// A process that waits for a question, and is ended when it is dropped.
    fn start(&self) -> Result<CedarSymCompiler<LocalSolver>, Failure> {
        let mut command = Command::new(&self.program);
        // Before 1.1, cvc5 looks for models of patterns only if told so.
        command
            .args(["--lang", "smt", "--strings-exp"])
            .arg(format!("--tlimit-per={}", self.timeout.as_millis()));
        command.kill_on_drop(true);
        let solver = LocalSolver::from_command(&mut command);
        let started = solver.map_err(Error::from).and_then(CedarSymCompiler::new);
        started.map_err(|error| Failure::Solver(error.to_string()))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout + GRACE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Error::SolverUnknown)) | Err(_) => Err(Failure::Timeout(self.timeout)),
            Ok(Err(error @ (Error::CompileError(_) | Error::EncodeError(_)))) => {
                Err(Failure::Encoding(error.to_string()))
            }
            Ok(Err(error)) => Err(Failure::Solver(error.to_string())),
        }
    }
}

/// Why a policy can't be told to a solver, if it can't.
pub(super) async fn not_encoded(
    policy: &Policy,
    environment: &RequestEnv,
    schema: &Schema,
) -> Option<String> {
    let compiled = match CompiledPolicy::compile(policy, environment, schema) {
        Ok(compiled) => compiled,
        Err(error) => return Some(error.to_string()),
    };
    // It writes the question, and does not answer it.
    let mut writer = CedarSymCompiler::new(WriterSolver { w: tokio::io::sink() }).ok()?;
    match writer.check_always_matches_opt(&compiled).await {
        Err(error @ (Error::CompileError(_) | Error::EncodeError(_))) => Some(error.to_string()),
        Ok(_) | Err(_) => None,
    }
}

/// The ids of the policies whose evaluation may fail, sorted. Cedar passes over such a policy, and Tidegate denies.
pub(super) async fn fallible(
    sets: &[PolicySet],
    environment: &RequestEnv,
    schema: &Schema,
    solver: &Solver,
) -> Vec<String> {
    let mut found = Vec::new();
    for policy in sets.iter().flat_map(PolicySet::policies) {
        if !policy.as_ref().condition().subexpressions().any(computes) {
            continue;
        }
        let Ok(compiled) = CompiledPolicy::compile(policy, environment, schema) else { continue };
        let Ok(mut compiler) = solver.start() else { continue };
        // What is not known is taken to fail.
        if !solver.in_time(compiler.check_never_errors_opt(&compiled)).await.unwrap_or(false) {
            found.push(policy.id().to_string());
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether an expression computes a number that may be too large.
fn computes(expr: &Expr) -> bool {
    match expr.expr_kind() {
        ExprKind::BinaryApp { op, .. } => matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul),
        ExprKind::UnaryApp { op, .. } => matches!(op, UnaryOp::Neg),
        ExprKind::ExtensionFunctionApp { fn_name, .. } => {
            matches!(fn_name.to_string().as_str(), "offset" | "durationSince" | "toDate")
        }
        _ => false,
    }
}
