//! TLS and credentials, against real servers that require them; and secrets, which no output shows.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::booted_machine::OUTSIDE;
use crate::fake::{Fake, exposition, hang, response};
use crate::host::{free_port, kill, run_command, wait_for};
use crate::run::{Ended, Run};
use crate::servers::{Server, families};

pub const PASSWORD: &str = "geheimes-wort";
/// Its hash in a web configuration, made by `htpasswd -nB node`.
const BCRYPT: &str = "$2y$05$HZVWTTrqyVRliJD0J31z7u./00.H7LMrOIcXIjuaCoUTbI10hojfy";
/// `node:geheimes-wort` as basic auth sends it.
const ENCODED: &str = "bm9kZTpnZWhlaW1lcy13b3J0";
const TOKEN: &str = "ein-geheimer-schein";

/// Certificates, web configurations and secrets, each in a file of its name.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        let ca = files.ca("ca");
        let another = files.ca("another");
        let here = &["127.0.0.1", "localhost", OUTSIDE];
        files.certificate("server", &ca, here, (2020, 2050));
        files.certificate("elsewhere", &ca, &["push.example"], (2020, 2050));
        files.certificate("expired", &ca, here, (2020, 2021));
        files.certificate("future", &ca, here, (2049, 2050));
        files.certificate("node", &ca, &["node"], (2020, 2050));
        files.certificate("stranger", &another, &["node"], (2020, 2050));
        files.write("password", &format!("{PASSWORD}\n"));
        files.write("wrong", "falsches-wort");
        files.write("token", &format!("{TOKEN}\r\n"));
        files.write("empty", "");
        files.write("long", &"x".repeat(10_000));
        files.write("words", "zwei worte");
        for (name, base64) in [("broken", "x"), ("no-certificate", "AAAA")] {
            let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
            files.write(name, &pem);
        }
        for server in ["server", "elsewhere", "expired", "future"] {
            files.write(&format!("{server}.yml"), &files.tls(server, ""));
        }
        let login = format!("basic_auth_users:\n  node: {BCRYPT}\n");
        files.write("login.yml", &(files.tls("server", "") + &login));
        files.write("plain-login.yml", &login);
        files.write("old.yml", &files.tls("server", "  max_version: TLS12\n"));
        let mutual = format!(
            "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {}\n",
            files.path("ca.crt")
        );
        files.write("mutual.yml", &files.tls("server", &mutual));
        let old = format!("{mutual}  max_version: TLS12\n");
        files.write("old-mutual.yml", &files.tls("server", &old));
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn ca(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // All CAs have the same name, like those that a script makes anew.
        params.distinguished_name.push(DnType::CommonName, "ca");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        self.write(&format!("{name}.crt"), &certificate.pem());
        Issuer::new(params, key)
    }

    fn certificate(&self, name: &str, ca: &Issuer<KeyPair>, names: &[&str], years: (i32, i32)) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, ca).unwrap();
        self.write(&format!("{name}.crt"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// A web configuration with this server's certificate.
    fn tls(&self, server: &str, more: &str) -> String {
        let (crt, key) = (self.path(&format!("{server}.crt")), self.path(&format!("{server}.key")));
        format!("tls_server_config:\n  cert_file: {crt}\n  key_file: {key}\n{more}")
    }

    /// A Pushgateway with the web configuration `name`, and its address.
    pub fn gateway(&self, name: &str) -> (Server, String) {
        let server = Server::secured_pushgateway("127.0.0.1", &self.file(name));
        let scheme = match name {
            "plain-login.yml" => "http",
            _ => "https",
        };
        let address = format!("{scheme}://{}", server.addr);
        (server, address)
    }
}

/// A run as the instance "n" with these variables. Variables of files have names of `files` as values.
pub fn run(files: &Files, exporter: &str, gateway: &str, variables: &[(&str, &str)]) -> Run {
    let mut run = Run::new(exporter, gateway).instance("n");
    for (name, value) in variables {
        let is_file = ["_FILE", "_CACERT", "_CERT", "_KEY"].iter().any(|end| name.ends_with(end));
        run = match is_file {
            true => run.env(name, files.file(value)),
            false => run.env(name, value),
        };
    }
    run
}

const CA: (&str, &str) = ("PGW_CACERT", "ca.crt");
const USER: (&str, &str) = ("PGW_USER", "node");
const FILE: (&str, &str) = ("PGW_PASSWORD_FILE", "password");

#[test]
fn every_auth_method_can_push() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let with_node = |key: &'static str| [CA, ("PGW_CERT", "node.crt"), ("PGW_KEY", key)];
    let in_address = format!("node:{PASSWORD}@");
    for (config, credentials, variables) in [
        ("server.yml", "", &[CA][..]),
        ("old.yml", "", &[CA]),
        // OpenSSL reads the system's CAs from this file, too.
        ("server.yml", "", &[("SSL_CERT_FILE", "ca.crt")]),
        ("login.yml", "", &[CA, USER, FILE]),
        ("login.yml", "", &[CA, USER, ("PGW_PASSWORD", PASSWORD)]),
        ("login.yml", &in_address, &[CA]),
        ("plain-login.yml", "", &[USER, FILE]),
        ("plain-login.yml", &in_address, &[]),
        ("mutual.yml", "", &with_node("node.key")),
        ("old-mutual.yml", "", &with_node("node.key")),
    ] {
        let (_gateway, address) = files.gateway(config);
        let address = address.replace("://", &format!("://{credentials}"));
        let push = || run(&files, &exporter.addr, &address, variables);
        succeeds_and_keeps_secrets(&files, push);
        push().args(&["--prune", "3600"]).end().succeeded();
        push().arg("--delete").end().succeeded();
    }
}

#[test]
fn exporter_with_tls_and_credentials_is_scraped() {
    let files = Files::new();
    let gateway = Server::pushgateway(&[]);
    let ca = ("EXPORTER_CACERT", "ca.crt");
    let user = ("EXPORTER_USER", "node");
    for (config, variables) in [
        ("server.yml", &[ca][..]),
        ("login.yml", &[ca, user, ("EXPORTER_PASSWORD_FILE", "password")]),
        ("login.yml", &[ca, user, ("EXPORTER_PASSWORD", PASSWORD)]),
        ("mutual.yml", &[ca, ("EXPORTER_CERT", "node.crt"), ("EXPORTER_KEY", "node.key")]),
    ] {
        let exporter = Server::secured_node_exporter(&files.file(config));
        let address = format!("https://{}", exporter.addr);
        let push = || run(&files, &address, &gateway.addr, variables);
        succeeds_and_keeps_secrets(&files, push);
        assert!(families(&gateway.group("n").unwrap()).len() > 100);
        push().arg("--delete").end().succeeded();
    }
    let wants_token = Fake::answering(|_| exposition("a 1\n"));
    let token = [("EXPORTER_TOKEN", TOKEN)];
    succeeds_and_keeps_secrets(&files, || run(&files, &wants_token.addr, &gateway.addr, &token));
    for request in wants_token.requests() {
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    }
}

#[test]
fn reverse_proxy_with_tls_prefix_and_token_forwards_pushes() {
    let files = Files::new();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let nginx = Server::nginx(&format!(
        "listen ADDR ssl; ssl_certificate {}; ssl_certificate_key {}; client_max_body_size 8m;\n\
         location /push/ {{\n\
           if ($http_authorization != \"Bearer {TOKEN}\") {{ return 401; }}\n\
           proxy_pass http://{}/;\n\
         }}",
        files.path("server.crt"),
        files.path("server.key"),
        gateway.addr
    ));
    let address = format!("https://{}/push", nginx.addr);
    for token in [("PGW_TOKEN_FILE", "token"), ("PGW_TOKEN", TOKEN)] {
        let push = || run(&files, &exporter.addr, &address, &[CA, token]);
        succeeds_and_keeps_secrets(&files, push);
        assert!(gateway.group("n").is_some());
        push().arg("--delete").end().succeeded();
        assert!(gateway.group("n").is_none());
    }
    let without = run(&files, &exporter.addr, &address, &[CA]);
    without.end().failed(7, &["401", "--pgw-token-file (PGW_TOKEN_FILE)"]);
    let wrong = run(&files, &exporter.addr, &address, &[CA, ("PGW_TOKEN", "irgendeiner")]);
    wrong.end().failed(7, &["401"]);
    let plain = run(&files, &exporter.addr, &address.replace("https", "http"), &[]);
    plain.end().failed(7, &["400", "Use https:// in --pgw-addr (PGW_ADDR)"]);
}

#[test]
fn forward_proxy_tunnels_https_pushes_and_its_failures_are_reported() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let (gateway, address) = files.gateway("login.yml");
    let port = gateway.addr.rsplit_once(':').unwrap().1;
    let proxy = Server::tinyproxy(&format!("ConnectPort {port}\nBasicAuth user s3cret"));
    let push = |proxy: &str| {
        let run = run(&files, &exporter.addr, &address, &[CA, USER, FILE]);
        run.env("https_proxy", proxy).env("http_proxy", "127.0.0.1:1")
    };
    push(&format!("http://user:s3cret@{}", proxy.addr)).end().succeeded();
    assert!(proxy.log().contains(&format!("CONNECT {}", gateway.addr)));

    let closed = Server::tinyproxy("ConnectPort 1");
    let (silent, endless) =
        (Fake::raw(hang), Fake::raw(|stream| while stream.write_all(&[b'x'; 1000]).is_ok() {}));
    for (proxy, why) in [
        (&*format!("user:geheim@{}", proxy.addr), "the proxy answered HTTP/1.0 401"),
        (&closed.addr, "the proxy answered HTTP/1.1 403"),
        (&silent.addr, "no response from the proxy within 2 s"),
        (&endless.addr, "the proxy does not answer as a proxy"),
    ] {
        let ended = push(proxy).env("PGW_PUSH_TIMEOUT", "2").end();
        ended.failed(6, &["(through the proxy http://127.0.0.1:", why]);
    }
}

#[test]
fn mistake_in_tls_or_credentials_is_reported_with_its_remedy_and_no_secret() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let lock = files.file("lock");
    let node = |crt, key| [CA, ("PGW_CERT", crt), ("PGW_KEY", key)];
    let not_trusted = &["CA that is not trusted", "--pgw-cacert (PGW_CACERT)"];
    let rejected = &["refused the connection", "--pgw-cert (PGW_CERT)"];
    let only_one = &["--pgw-user (PGW_USER)", "use only one of: user, token"];
    for (config, variables, status, words) in [
        ("server.yml", &[][..], 6, &not_trusted[..]),
        ("server.yml", &[("PGW_CACERT", "another.crt")], 6, not_trusted),
        (
            "elsewhere.yml",
            &[CA],
            6,
            &["name \"127.0.0.1\"", "push.example", "--pgw-addr (PGW_ADDR)"],
        ),
        ("expired.yml", &[CA], 6, &["certificate expired", "clock"]),
        ("future.yml", &[CA], 6, &["certificate not valid yet", "clock"]),
        ("mutual.yml", &[CA], 6, rejected),
        ("old-mutual.yml", &[CA], 6, rejected),
        ("mutual.yml", &node("stranger.crt", "stranger.key"), 6, rejected),
        ("old-mutual.yml", &node("stranger.crt", "stranger.key"), 6, rejected),
        ("login.yml", &[CA], 7, &["401", "--pgw-user (PGW_USER)"]),
        ("login.yml", &[CA, USER, ("PGW_PASSWORD_FILE", "wrong")], 7, &["401"]),
        ("login.yml", &[CA, ("PGW_USER", "x"), FILE], 7, &["401"]),
        // Nothing is contacted:
        (
            "server.yml",
            &node("node.crt", "server.key"),
            2,
            &["PGW_KEY", "not the certificate's key"],
        ),
        ("server.yml", &[CA, ("PGW_CERT", "node.crt")], 2, &["--pgw-key (PGW_KEY): it is missing"]),
        (
            "server.yml",
            &[CA, ("PGW_KEY", "node.key")],
            2,
            &["--pgw-cert (PGW_CERT): it is missing"],
        ),
        (
            "server.yml",
            &node("node.crt", "node.crt"),
            2,
            &["PGW_KEY", "no unencrypted private key"],
        ),
        ("server.yml", &node("node.key", "node.key"), 2, &["PGW_CERT", "no certificate in PEM"]),
        ("server.yml", &[("PGW_CACERT", "nothing")], 2, &["PGW_CACERT", "No such file"]),
        ("server.yml", &[("PGW_CACERT", "")], 2, &["PGW_CACERT", "not a regular file"]),
        ("server.yml", &[("PGW_CACERT", "empty")], 2, &["PGW_CACERT", "no certificate in PEM"]),
        ("server.yml", &[("PGW_CACERT", "broken")], 2, &["PGW_CACERT", "no certificate in PEM"]),
        (
            "server.yml",
            &[("PGW_CACERT", "no-certificate")],
            2,
            &["PGW_CACERT", "not a certificate"],
        ),
        (
            "server.yml",
            &[("SSL_CERT_FILE", "empty")],
            2,
            &["PGW_CACERT", "this system trusts no CA"],
        ),
        ("login.yml", &[CA, USER], 2, &["--pgw-user", "password is missing", "PGW_PASSWORD_FILE"]),
        ("login.yml", &[CA, FILE], 2, &["--pgw-user (PGW_USER)", "no user"]),
        ("login.yml", &[CA, ("PGW_USER", "a:b"), FILE], 2, &["--pgw-user (PGW_USER)", "no colon"]),
        ("login.yml", &[CA, USER, ("PGW_PASSWORD_FILE", "long")], 2, &["longer than 8192 bytes"]),
        (
            "login.yml",
            &[CA, USER, FILE, ("PGW_PASSWORD", PASSWORD)],
            2,
            &["PGW_PASSWORD is set as well"],
        ),
        ("login.yml", &[CA, USER, FILE, ("PGW_TOKEN", TOKEN)], 2, only_one),
        ("login.yml", &[CA, USER, ("PGW_PASSWORD_FILE", "nothing")], 2, &["No such file"]),
        ("login.yml", &[CA, ("PGW_TOKEN_FILE", "empty")], 2, &["PGW_TOKEN_FILE", "one word"]),
        ("login.yml", &[CA, ("PGW_TOKEN_FILE", "words")], 2, &["PGW_TOKEN_FILE", "one word"]),
        (
            "plain-login.yml",
            &[CA, USER, FILE],
            2,
            &["PGW_CACERT", "no TLS to http://", "Use https://"],
        ),
    ] {
        let (_gateway, address) = files.gateway(config);
        let case =
            || run(&files, &exporter.addr, &address, variables).env("FORWARDER_LOCK_FILE", &lock);
        case().end().failed(status, words);
        for args in [&["-vv"][..], &[]] {
            let ended = case().args(args).env("RUST_LOG", "trace").end();
            assert_eq!(ended.status, Some(status), "{ended:?}");
            keeps_secrets(&ended, &lock);
        }
    }
}

#[test]
fn self_signed_ca_certificate_is_refused_with_a_remedy_that_works() {
    let files = Files::new();
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let push = |options: &str| {
        let (crt, key) = (files.path("self.crt"), files.path("self.key"));
        let line = format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=self {options} -out {crt} -keyout {key}"
        );
        run_command(&line);
        files.write("self.yml", &files.tls("self", ""));
        let (_gateway, address) = files.gateway("self.yml");
        run(&files, &exporter.addr, &address, &[("PGW_CACERT", "self.crt")]).end()
    };
    let name = "-addext subjectAltName=IP:127.0.0.1";
    let refused = push(name);
    refused.failed(6, &["that of a CA, as `openssl req -x509` makes it"]);
    let remedy = refused.stderr.split('`').nth(3).unwrap();
    push(&format!("{name} {remedy}")).succeeded();
    push(remedy).failed(6, &["not valid for any names", "add the name (subjectAltName)"]);
}

/// Asserts success, and that no output has a secret, even at the highest level.
#[track_caller]
fn succeeds_and_keeps_secrets(files: &Files, push: impl Fn() -> Run) {
    push().end().succeeded();
    let lock = files.file("lock");
    for args in [&["-vv"][..], &[]] {
        let run = push().args(args).env("RUST_LOG", "trace");
        let ended = run.env("FORWARDER_LOCK_FILE", &lock).end();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        assert!(ended.stderr.contains(": debug: "), "{ended:?}");
        keeps_secrets(&ended, &lock);
    }
}

/// Asserts that neither the output nor the lock file has a secret.
#[track_caller]
fn keeps_secrets(ended: &Ended, lock: &Path) {
    let lock = fs::read(lock).unwrap_or_default();
    let all = [&ended.stdout, ended.stderr.as_bytes(), &lock].concat();
    let all = String::from_utf8_lossy(&all);
    // A trace would show the bytes of the connection, and secrets in pieces.
    assert!(!all.contains(": trace: "), "{all}");
    for secret in [PASSWORD, ENCODED, TOKEN, "falsches-wort"] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[test]
fn secrets_are_shown_neither_after_a_success_nor_when_a_server_repeats_them() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let lock = files.file("lock");
    let (_gateway, address) = files.gateway("login.yml");
    let in_address = address.replace("://", &format!("://node:{PASSWORD}@"));
    let echo = Fake::meddling("127.0.0.1:1", |request| {
        let credentials = request.header("authorization").unwrap();
        let header = format!("X-Authorization: {credentials}\r\n");
        let decoded = if credentials.contains(ENCODED) { PASSWORD } else { "" };
        // A quotation ends within the secrets.
        let body = format!("{} {decoded} {}", "x".repeat(270), request.head);
        Some(response(403, &header, &body))
    });
    let echo = &echo.addr;
    for (address, variables, status) in [
        (&address, &[CA, USER, FILE][..], 0),
        (&address, &[CA, USER, ("PGW_PASSWORD", PASSWORD)], 0),
        (&in_address, &[CA], 0),
        (echo, &[USER, FILE], 7),
        (&format!("node:{PASSWORD}@{echo}"), &[], 7),
        (echo, &[("PGW_TOKEN_FILE", "token")], 7),
    ] {
        for args in [&["-vv"][..], &[], &["--dry-run", "-vv"], &["--help"]] {
            let run = run(&files, &exporter.addr, address, variables).args(args);
            let ended = run.env("RUST_LOG", "trace").env("FORWARDER_LOCK_FILE", &lock).end();
            // Neither a dry run nor help contacts the gateway.
            let expected = if args.len() > 1 || args == ["--help"] { 0 } else { status };
            assert_eq!(ended.status, Some(expected), "{ended:?}");
            keeps_secrets(&ended, &lock);
        }
    }
}

#[test]
fn secret_of_any_length_is_masked_in_responses_and_only_there() {
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let long = "x7".repeat(1500);
    for secret in ["e", "pgw", "a\"b", "\\", "ü", &long] {
        let repeated = secret.to_owned();
        let echo = Fake::answering(move |_| {
            response(403, &format!("X: <{repeated}>\r\n"), &format!("YOU SENT <{repeated}>"))
        });
        let run = |args: &[&str]| Run::new(&exporter.addr, &echo.addr).instance("n").args(args);
        let by_password = |run: Run| run.env("PGW_USER", "node").env("PGW_PASSWORD", secret);
        let by_token = |run: Run| run.env("PGW_TOKEN", secret);
        let url = format!("http://{}/metrics/job/node/instance/n", echo.addr);
        for args in [&[][..], &["-vv"]] {
            let mut runs = vec![by_password(run(args))];
            if secret.is_ascii() {
                runs.push(by_token(run(args)));
            }
            for ended in runs.into_iter().map(Run::end) {
                let last = ended.stderr.lines().last().unwrap();
                let start = format!("pgw-forwarder: error: gateway {url} refused: 403 Forbidden: ");
                assert_eq!(last, start + "YOU SENT <***>. (exit status 7)");
                let is_detailed = !args.is_empty();
                assert_eq!(ended.stderr.contains("debug: x: <***>\n"), is_detailed, "{ended:?}");
                let request = format!("debug: request for {url}\n");
                assert_eq!(ended.stderr.contains(&request), is_detailed, "{ended:?}");
                assert!(!ended.stderr.contains(&format!("<{secret}")), "{ended:?}");
            }
        }
    }
    // An error about TLS comes before any secret is sent.
    let files = Files::new();
    let (_gateway, address) = files.gateway("server.yml");
    let variables = [("PGW_CACERT", "another.crt"), USER, ("PGW_PASSWORD", "a")];
    let ended = run(&files, &exporter.addr, &address, &variables).end();
    ended.failed(6, &["it is from a CA that is not trusted here"]);
}

#[test]
fn secret_is_no_argument() {
    for option in ["--pgw-password", "--pgw-token", "--exporter-password", "--exporter-token"] {
        let run = Run::new("127.0.0.1:1", "127.0.0.1:1").args(&[option, PASSWORD]);
        run.end().failed(2, &[&format!("unexpected argument '{option}'")]);
    }
}

#[test]
fn secret_file_that_every_user_can_read_causes_a_warning() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let (_gateway, address) = files.gateway("login.yml");
    let push = || run(&files, &exporter.addr, &address, &[CA, USER, FILE]).end();
    let password = files.file("password");
    for (mode, warns) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&password, fs::Permissions::from_mode(mode)).unwrap();
        let ended = push();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        assert_eq!(ended.stderr.contains("every user of this host can read"), warns, "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), usize::from(warns), "{ended:?}");
        // The warning has the remedy.
        if let Some((_, command)) = ended.stderr.trim_end().split_once("Run: ") {
            run_command(command);
            push().succeeded();
        }
    }
    // Reading a FIFO would wait for its writer.
    fs::remove_file(&password).unwrap();
    run_command(&format!("mkfifo {}", password.display()));
    push().failed(2, &["PGW_PASSWORD_FILE", "not a regular file"]);
}

#[test]
fn mismatch_of_scheme_and_server_is_reported() {
    let files = Files::new();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let https = |addr: &str| format!("https://{addr}");
    let push = |exporter: &str, gateway: &str, variables: &[(&str, &str)]| {
        run(&files, exporter, gateway, variables).env("PGW_PUSH_TIMEOUT", "3").end()
    };
    let ca = ("EXPORTER_CACERT", "ca.crt");
    let (silent, closing) = (Fake::raw(hang), Fake::raw(|_| {}));
    for (server_of_gateway, server_of_exporter, why) in [
        (&gateway.addr, &exporter.addr, "it does not speak TLS. Use http://"),
        (&silent.addr, &silent.addr, "its TLS handshake was not finished within "),
        (&closing.addr, &closing.addr, "the server closed the connection too early"),
    ] {
        push(&exporter.addr, &https(server_of_gateway), &[CA])
            .failed(6, &["gateway https://", why]);
        push(&https(server_of_exporter), &gateway.addr, &[ca])
            .failed(4, &["exporter https://", why]);
    }

    let use_https = |side: &str| format!("Use https:// in --{side}-addr");
    let (secured, _) = files.gateway("server.yml");
    push(&exporter.addr, &secured.addr, &[]).failed(7, &["400", &use_https("pgw")]);
    let secured = Server::secured_node_exporter(&files.file("server.yml"));
    push(&secured.addr, &gateway.addr, &[]).failed(5, &["400", &use_https("exporter")]);
    let login = Server::secured_node_exporter(&files.file("login.yml"));
    push(&https(&login.addr), &gateway.addr, &[ca]).failed(5, &["401", "--exporter-user"]);

    // Without TLS, no certificates are read: reading this file would wait for ever.
    let fifo = files.path("fifo");
    run_command(&format!("mkfifo {fifo}"));
    let run = run(&files, &exporter.addr, &gateway.addr, &[("SSL_CERT_FILE", "fifo")]);
    run.end().succeeded();
}

#[test]
fn early_refusal_is_heard_over_tls_when_the_server_closes() {
    let files = Files::new();
    let large = exposition(&"a{b=\"c\"} 1\n".repeat(1_500_000));
    let exporter = Fake::answering(move |_| large.clone());
    for (config, variables) in [("login.yml", &[CA][..]), ("plain-login.yml", &[])] {
        let (_gateway, address) = files.gateway(config);
        run(&files, &exporter.addr, &address, variables).end().failed(7, &["401"]);
    }
    // A server that keeps the connection open, and stops reading, is waited for, whether it has answered or
    // not: before the push is complete, the bytes of a response cannot be told from those of TLS itself.
    for answer in ["", "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"] {
        let addr = format!("127.0.0.1:{}", free_port());
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &addr])
            .args(["-cert", &files.path("server.crt"), "-key", &files.path("server.key")])
            // It sends what it reads here.
            .stdin(Stdio::piped())
            // It stops reading from the connection, since this pipe is full.
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
        wait_for("s_server", || TcpStream::connect(&addr).ok());
        let push = run(&files, &exporter.addr, &format!("https://{addr}"), &[CA]);
        let ended = push.env("PGW_PUSH_TIMEOUT", "2").end();
        kill(&mut server);
        ended.failed(6, &["no complete response within 2 s"]);
    }
}

#[test]
fn large_push_over_tls_arrives_complete() {
    let files = Files::new();
    let (gateway, address) = files.gateway("server.yml");
    let lines: String = (0..100_000).map(|n| format!("a{{b=\"{n}\"}} 1\n")).collect();
    let body = exposition(&lines);
    let exporter = Fake::answering(move |_| body.clone());
    run(&files, &exporter.addr, &address, &[CA]).end().succeeded();
    let (ca, addr) = (files.path("ca.crt"), &gateway.addr);
    let page = run_command(&format!("curl --silent --cacert {ca} https://{addr}/metrics"));
    assert_eq!(page.lines().filter(|line| line.starts_with("a{")).count(), 100_000);
}
