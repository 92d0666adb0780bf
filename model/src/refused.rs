//! What the caller of a refused request is told, whoever refuses it.

use serde::Serialize;

/// The header that names the policies which determined a denial.
pub const POLICY: &str = "x-tidegate-policy";
/// How the names of all headers begin that only Tidegate says.
pub const OWN: &str = "x-tidegate-";

/// The body of the answer.
#[derive(Debug, Serialize)]
pub struct Refused<'a> {
    /// A code for programs.
    pub error: &'a str,
    /// Words for people.
    pub message: &'a str,
    /// What determined a denial, for those who may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a [String]>,
    /// To find it by.
    pub request_id: &'a str,
}

impl Refused<'_> {
    /// As it is sent.
    pub fn to_json(&self) -> String {
        // Nothing of it has no form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_told_or_not() {
        let policy = ["a \"b\"".to_owned()];
        let told = Refused { error: "denied", message: "no", policy: Some(&policy), request_id: "1" };
        let text = r#"{"error":"denied","message":"no","policy":["a \"b\""],"request_id":"1"}"#;
        assert_eq!(told.to_json(), text);
        let untold = Refused { policy: None, ..told };
        assert_eq!(untold.to_json(), r#"{"error":"denied","message":"no","request_id":"1"}"#);
    }
}
