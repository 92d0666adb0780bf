//! Services outside of the mesh: `external:` of a service in `mesh.yaml`.

use api::config::External;
use daemon::config_file::span_of;
use daemon::finding::{Finding, Findings, did_you_mean};
use identity::public;
use serde_saphyr::Spanned;

use super::written::{RawExternal, RawMesh, RawService};
use super::{FILE, Mesh};
use crate::bundle::files::{self, Files};

/// The port of HTTPS.
const HTTPS: u16 = 443;

impl Mesh {
    /// The services outside of the mesh.
    pub fn externals(&self) -> impl Iterator<Item = &String> {
        self.services.iter().filter(|(_, service)| service.external.is_some()).map(|(name, _)| name)
    }
}

/// The files with roots that `mesh.yaml` names.
pub(super) fn root_files(raw: &RawMesh) -> impl Iterator<Item = String> {
    let external = raw.services.values().filter_map(|service| service.external.as_ref());
    external.filter_map(|external| external.tls.roots.as_ref()).map(|file| file.value.clone())
}

/// Where the service called `name` is, if it is outside of the mesh.
pub(super) fn read(
    name: &Spanned<String>,
    raw: &RawService,
    source: &str,
    files: &Files,
    findings: &mut Findings,
) -> Option<External> {
    let external = raw.external.as_ref()?;
    let mut wrong = |place: &Spanned<String>, message: String, help: &str| {
        findings.push(Finding::at(FILE, source, span_of(place, source), message).with_help(help));
    };
    let of_sidecars = [
        ("instances", !raw.instances.is_empty()),
        ("ingress", raw.ingress.is_some()),
        ("mtls", raw.mtls.is_some()),
        ("jwt", !raw.jwt.is_empty()),
    ];
    for (key, _) in of_sidecars.into_iter().filter(|(_, is_given)| *is_given) {
        let message = format!("`{}` has both `external` and `{key}`", name.value);
        wrong(name, message, "no sidecar stands before a service outside of the mesh: keep one of them");
    }
    let host = host(name, external);
    let known = external.tls.name.as_ref().unwrap_or(host);
    for (place, what) in [(host, "host"), (known, "name")] {
        if !is_host_name(&place.value) && place.value.parse::<std::net::IpAddr>().is_err() {
            let help =
                "write a name of a-z, 0-9, `-` and `.`, such as `api.partner.example`, or an IP address";
            wrong(place, format!("`{}` can't be the {what} of a server", place.value), help);
        }
    }
    let roots = external.tls.roots.as_ref();
    Some(External {
        host: host.value.clone(),
        port: external.port.as_ref().map_or(HTTPS, |port| port.value),
        name: known.value.clone(),
        roots: roots.and_then(|file| read_roots(file, source, files, findings)),
    })
}

fn host<'a>(name: &'a Spanned<String>, external: &'a RawExternal) -> &'a Spanned<String> {
    external.host.as_ref().unwrap_or(name)
}

fn read_roots(
    file: &Spanned<String>,
    source: &str,
    files: &Files,
    findings: &mut Findings,
) -> Option<String> {
    let wrong = |message: String| Finding::at(FILE, source, span_of(file, source), message);
    let Some(text) = files.text(&file.value) else {
        let finding = wrong(format!("the bundle has no file `{}`", file.value));
        let others = files.texts.keys().map(String::as_str).filter(|name| !files::is_known(name));
        findings.push(match did_you_mean(&file.value, others) {
            Some(near) => finding.with_help(format!("did you mean `{near}`?")),
            None => {
                finding.with_help("put the roots into the bundle's folder; the file's name ends in `.pem`")
            }
        });
        return None;
    };
    match public::roots(text.as_bytes()) {
        Ok(_roots) => Some(text.to_owned()),
        Err(error) => {
            let finding = wrong(format!("`{}` holds no roots: {error}", file.value));
            findings.push(finding.with_help("write certificates of authorities, in PEM"));
            None
        }
    }
}

/// Whether callers can put it into `Host`.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use crate::bundle::Files;
    use crate::bundle::mesh::{self, Mesh};

    fn read(service: &str, roots: &str) -> Result<Mesh, Vec<String>> {
        let mesh = format!("trust_domain: a.example\nservices:\n  api.example.com: {service}\n");
        let files =
            Files { folder: ".".into(), texts: [("partner.pem".to_owned(), roots.to_owned())].into() };
        match mesh::parse(&mesh, &files) {
            Ok((mesh, _)) => Ok(mesh),
            Err(findings) => Err(findings.iter().map(|finding| finding.message.clone()).collect()),
        }
    }

    #[test]
    fn a_service_outside_is_found_by_its_name_unless_it_says_otherwise() {
        let key = KeyPair::generate().unwrap();
        let roots = CertificateParams::default().self_signed(&key).unwrap().pem();
        let external = |service| read(service, &roots).unwrap().services["api.example.com"].external.clone();
        let plain = external("{external: {}}").unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.name.as_str()),
            ("api.example.com", 443, "api.example.com")
        );
        assert_eq!(plain.roots, None);
        let other =
            external("{external: {host: 10.0.0.1, port: 8443, tls: {name: b.example, roots: partner.pem}}}");
        let other = other.unwrap();
        assert_eq!((other.host.as_str(), other.port, other.name.as_str()), ("10.0.0.1", 8443, "b.example"));
        assert_eq!(other.roots.as_deref(), Some(roots.as_str()));
        assert_eq!(external("{}"), None);
        assert!(external("{external: {port: 5432}, protocol: tcp}").is_some());
    }

    #[test]
    fn what_makes_no_server_outside_is_told() {
        let table = [
            (
                "{external: {}, ingress: \"127.0.0.1:80\"}",
                "`api.example.com` has both `external` and `ingress`",
            ),
            (
                "{external: {}, protocol: tcp, operations: {get: {method: GET, path: /a}}}",
                "`api.example.com` has `protocol: tcp`, and so no operations",
            ),
            ("{external: {}, mtls: strict}", "`api.example.com` has both `external` and `mtls`"),
            (
                "{external: {}, instances: [{endpoint: \"127.0.0.1:80\"}]}",
                "`api.example.com` has both `external` and `instances`",
            ),
            ("{external: {host: a_b}}", "`a_b` can't be the host of a server"),
            ("{external: {tls: {name: A.example}}}", "`A.example` can't be the name of a server"),
            ("{external: {tls: {roots: partners.pem}}}", "the bundle has no file `partners.pem`"),
            (
                "{external: {tls: {roots: partner.pem}}}",
                "`partner.pem` holds no roots: there is no certificate",
            ),
        ];
        for (service, message) in table {
            let told = read(service, "nothing").unwrap_err();
            assert!(told.iter().any(|told| told == message), "{service}: {told:?}");
        }
    }
}
