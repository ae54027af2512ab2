//! TLS and credentials, against real servers that want them.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::booted_machine::OUTSIDE;
use crate::fake::{Fake, exposition, hang, response};
use crate::host::{free_port, wait_for};
use crate::run::{Ended, Run};
use crate::servers::{Server, families};

pub const PASSWORD: &str = "geheimes-wort";
/// What a web configuration knows of it: `htpasswd -nB node` has made it.
const BCRYPT: &str = "$2y$05$HZVWTTrqyVRliJD0J31z7u./00.H7LMrOIcXIjuaCoUTbI10hojfy";
/// `node:geheimes-wort` as it goes over the wire.
const ENCODED: &str = "bm9kZTpnZWhlaW1lcy13b3J0";
const TOKEN: &str = "ein-geheimer-schein";

/// Certificates, web configurations and secrets, each in a file of its name.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        let authority = files.authority("ca");
        let another = files.authority("another");
        let here = &["127.0.0.1", "localhost", OUTSIDE];
        files.certificate("server", &authority, here, (2020, 2050));
        files.certificate("elsewhere", &authority, &["push.example"], (2020, 2050));
        files.certificate("expired", &authority, here, (2020, 2021));
        files.certificate("future", &authority, here, (2049, 2050));
        files.certificate("node", &authority, &["node"], (2020, 2050));
        files.certificate("stranger", &another, &["node"], (2020, 2050));
        files.write("password", &format!("{PASSWORD}\n"));
        files.write("wrong", "falsches-wort");
        files.write("token", &format!("{TOKEN}\r\n"));
        files.write("empty", "");
        files.write("long", &"x".repeat(10_000));
        files.write("words", "zwei worte");
        files.write("broken", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n");
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

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // All are called the same, as those are that a script makes anew.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        self.write(&format!("{name}.crt"), &certificate.pem());
        Issuer::new(params, key)
    }

    fn certificate(
        &self,
        name: &str,
        authority: &Issuer<KeyPair>,
        names: &[&str],
        years: (i32, i32),
    ) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        self.write(&format!("{name}.crt"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// A web configuration with this server's certificate.
    fn tls(&self, server: &str, more: &str) -> String {
        let (crt, key) = (self.path(&format!("{server}.crt")), self.path(&format!("{server}.key")));
        format!("tls_server_config:\n  cert_file: {crt}\n  key_file: {key}\n{more}")
    }

    /// A Pushgateway with the web configuration `name`, and its address.
    fn gateway(&self, name: &str) -> (Server, String) {
        let server = Server::secured_pushgateway("127.0.0.1", &self.file(name));
        let scheme = match name {
            "plain-login.yml" => "http",
            _ => "https",
        };
        let address = format!("{scheme}://{}", server.addr);
        (server, address)
    }
}

/// A run as an instance "n", with these variables, of which those of files are names of files.
fn run(files: &Files, exporter: &str, gateway: &str, variables: &[(&str, &str)]) -> Run {
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
fn each_way_in_is_let_in() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let with_node = |key: &'static str| [CA, ("PGW_CERT", "node.crt"), ("PGW_KEY", key)];
    let in_address = format!("node:{PASSWORD}@");
    for (config, credentials, variables) in [
        ("server.yml", "", &[CA][..]),
        ("old.yml", "", &[CA]),
        // The system's own store is what this variable names, for openssl and for us.
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
        // And so are the other things that it does.
        push().args(&["--prune", "3600"]).end().succeeded();
        push().arg("--delete").end().succeeded();
    }
}

#[test]
fn an_exporter_may_want_the_same() {
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
    // A token goes the same way.
    let wants_token = Fake::answering(|_| exposition("a 1\n"));
    let token = [("EXPORTER_TOKEN", TOKEN)];
    succeeds_and_keeps_secrets(&files, || run(&files, &wants_token.addr, &gateway.addr, &token));
    for request in wants_token.requests() {
        let head = request.head.to_ascii_lowercase();
        assert!(head.contains(&format!("\r\nauthorization: bearer {TOKEN}\r\n")));
    }
}

#[test]
fn a_reverse_proxy_with_a_prefix_and_a_token_is_passed() {
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
    for way in [("PGW_TOKEN_FILE", "token"), ("PGW_TOKEN", TOKEN)] {
        let push = || run(&files, &exporter.addr, &address, &[CA, way]);
        succeeds_and_keeps_secrets(&files, push);
        assert!(gateway.group("n").is_some());
        push().arg("--delete").end().succeeded();
        assert!(gateway.group("n").is_none());
    }
    let without = run(&files, &exporter.addr, &address, &[CA]);
    without.end().failed(7, &["401", "--pgw-token-file (PGW_TOKEN_FILE)"]);
    let wrong = run(&files, &exporter.addr, &address, &[CA, ("PGW_TOKEN", "irgendeiner")]);
    wrong.end().failed(7, &["401"]);
    let plain = address.replace("https", "http");
    run(&files, &exporter.addr, &plain, &[])
        .end()
        .failed(7, &["400", "its address begins with https://"]);
}

#[test]
fn a_forward_proxy_is_gone_through_by_a_tunnel() {
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
    let refused = push(&format!("http://user:geheim@{}", proxy.addr)).end();
    refused.failed(6, &["through the proxy", "the proxy answered HTTP/1.0 401"]);
    let closed = Server::tinyproxy("ConnectPort 1");
    let refused = push(&format!("http://{}", closed.addr)).end();
    refused.failed(6, &["the proxy answered HTTP/1.1 403"]);
    let silent = Fake::raw(hang);
    let run = push(&silent.addr).env("PGW_PUSH_TIMEOUT", "0.5").end();
    run.failed(6, &["through the proxy"]);
    let endless = Fake::raw(|stream| {
        use std::io::Write;
        while stream.write_all(&[b'x'; 1000]).is_ok() {}
    });
    push(&endless.addr).end().failed(6, &["the proxy does not answer"]);
}

/// A gateway's web configuration, variables of the forwarder, the status, and words.
type Refusal = (&'static str, Vec<(&'static str, &'static str)>, i32, Vec<&'static str>);

/// What can go wrong at a gateway.
fn refusals() -> Vec<Refusal> {
    let node = |crt, key| vec![CA, ("PGW_CERT", crt), ("PGW_KEY", key)];
    vec![
        ("server.yml", vec![], 6, vec!["authority that is not trusted", "--pgw-cacert"]),
        ("server.yml", vec![("PGW_CACERT", "another.crt")], 6, vec!["not trusted here"]),
        ("elsewhere.yml", vec![CA], 6, vec!["not for 127.0.0.1, but for push.example"]),
        ("expired.yml", vec![CA], 6, vec!["has expired", "clock"]),
        ("future.yml", vec![CA], 6, vec!["not yet valid", "clock"]),
        ("mutual.yml", vec![CA], 6, vec!["wants a certificate", "--pgw-cert, PGW_CERT"]),
        ("old-mutual.yml", vec![CA], 6, vec!["wants a certificate", "--pgw-cert"]),
        ("mutual.yml", node("stranger.crt", "stranger.key"), 6, vec!["this one will not do"]),
        ("old-mutual.yml", node("stranger.crt", "stranger.key"), 6, vec!["this one will not do"]),
        ("login.yml", vec![CA], 7, vec!["401", "--pgw-user (PGW_USER)"]),
        ("login.yml", vec![CA, USER, ("PGW_PASSWORD_FILE", "wrong")], 7, vec!["401"]),
        ("login.yml", vec![CA, ("PGW_USER", "x"), FILE], 7, vec!["401"]),
        // Before anything is contacted:
        ("server.yml", node("node.crt", "server.key"), 2, vec!["PGW_KEY", "not the key of"]),
        (
            "server.yml",
            vec![CA, ("PGW_CERT", "node.crt")],
            2,
            vec!["--pgw-key (PGW_KEY): it is missing"],
        ),
        (
            "server.yml",
            vec![CA, ("PGW_KEY", "node.key")],
            2,
            vec!["--pgw-cert (PGW_CERT): it is missing"],
        ),
        ("server.yml", node("node.crt", "node.crt"), 2, vec!["PGW_KEY", "no private key"]),
        ("server.yml", node("node.key", "node.key"), 2, vec!["PGW_CERT", "no certificate in PEM"]),
        ("server.yml", vec![("PGW_CACERT", "nothing")], 2, vec!["PGW_CACERT", "No such file"]),
        ("server.yml", vec![("PGW_CACERT", "")], 2, vec!["PGW_CACERT", "not a file"]),
        ("server.yml", vec![("PGW_CACERT", "empty")], 2, vec!["no certificate in PEM"]),
        ("server.yml", vec![("PGW_CACERT", "broken")], 2, vec!["PGW_CACERT"]),
        ("server.yml", vec![("SSL_CERT_FILE", "empty")], 2, vec!["this system trusts nobody"]),
        ("login.yml", vec![CA, USER], 2, vec!["PGW_USER", "password is missing"]),
        ("login.yml", vec![CA, FILE], 2, vec!["PGW_USER", "it is missing"]),
        ("login.yml", vec![CA, ("PGW_USER", "a:b"), FILE], 2, vec!["no colon"]),
        ("login.yml", vec![CA, USER, ("PGW_PASSWORD_FILE", "long")], 2, vec!["too long"]),
        ("login.yml", vec![CA, USER, FILE, ("PGW_PASSWORD", PASSWORD)], 2, vec!["give one"]),
        ("login.yml", vec![CA, USER, FILE, ("PGW_TOKEN", TOKEN)], 2, vec!["several of"]),
        ("login.yml", vec![CA, USER, ("PGW_PASSWORD_FILE", "nothing")], 2, vec!["No such file"]),
        ("login.yml", vec![CA, ("PGW_TOKEN_FILE", "empty")], 2, vec!["PGW_TOKEN_FILE"]),
        ("login.yml", vec![CA, ("PGW_TOKEN_FILE", "words")], 2, vec!["one word"]),
        ("plain-login.yml", vec![CA, USER, FILE], 2, vec!["PGW_CACERT", "no TLS to an http://"]),
    ]
}

#[test]
fn each_refusal_tells_what_to_mend_and_no_secret() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let lock = files.file("lock");
    for (config, variables, status, words) in refusals() {
        let (_gateway, address) = files.gateway(config);
        let case =
            || run(&files, &exporter.addr, &address, &variables).env("FORWARDER_LOCK_FILE", &lock);
        case().end().failed(status, &words);
        for args in [&["-vv"][..], &[]] {
            let ended = case().args(args).env("RUST_LOG", "trace").end();
            assert_eq!(ended.status, Some(status), "{ended:?}");
            keeps_secrets(&ended, &lock);
        }
    }
}

/// Asserts success, and that it tells no secret, however much it is asked to tell.
#[track_caller]
fn succeeds_and_keeps_secrets(files: &Files, push: impl Fn() -> Run) {
    push().end().succeeded();
    let lock = files.file("lock");
    for args in [&["-vv"][..], &[]] {
        let run = push().args(args).env("RUST_LOG", "trace");
        let ended = run.env("FORWARDER_LOCK_FILE", &lock).end();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        keeps_secrets(&ended, &lock);
    }
}

/// Asserts that no secret is to be seen.
#[track_caller]
fn keeps_secrets(ended: &Ended, lock: &Path) {
    let lock = fs::read(lock).unwrap_or_default();
    let all = [&ended.stdout, ended.stderr.as_bytes(), &lock].concat();
    let all = String::from_utf8_lossy(&all);
    // It would be in pieces there.
    assert!(!all.contains(": trace: "), "{all}");
    for secret in [PASSWORD, ENCODED, TOKEN, "falsches-wort"] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[test]
fn a_success_tells_no_secret_either_nor_does_a_server_that_repeats_it() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let lock = files.file("lock");
    let (_gateway, address) = files.gateway("login.yml");
    let in_address = address.replace("://", &format!("://node:{PASSWORD}@"));
    let parrot = Fake::meddling("127.0.0.1:1", |request| {
        let mut lines = request.head.lines();
        let line = lines.find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
        let header = format!("X-{}\r\n", line.unwrap());
        // Wherever the quotation of it ends.
        let decoded = if header.contains(ENCODED) { PASSWORD } else { "" };
        let body = format!("{} {decoded} {}", "x".repeat(270), request.head);
        Some(response(403, &header, &body))
    });
    let parrot = &parrot.addr;
    for (address, variables, status) in [
        (&address, &[CA, USER, FILE][..], 0),
        (&address, &[CA, USER, ("PGW_PASSWORD", PASSWORD)], 0),
        (&in_address, &[CA], 0),
        (parrot, &[USER, FILE], 7),
        (&format!("node:{PASSWORD}@{parrot}"), &[], 7),
        (parrot, &[("PGW_TOKEN_FILE", "token")], 7),
    ] {
        for args in [&["-vv"][..], &[], &["--dry-run", "-vv"], &["--help"]] {
            let run = run(&files, &exporter.addr, address, variables).args(args);
            let ended = run.env("RUST_LOG", "trace").env("FORWARDER_LOCK_FILE", &lock).end();
            // Neither a dry run nor help asks the gateway.
            let expected = if args.len() > 1 || args == ["--help"] { 0 } else { status };
            assert_eq!(ended.status, Some(expected), "{ended:?}");
            keeps_secrets(&ended, &lock);
        }
    }

    // While it runs, its arguments are for everybody to see.
    let stuck = Fake::after_request(hang);
    let mut child = run(&files, &stuck.addr, &in_address, &[CA]).start();
    wait_for("the scrape", || (stuck.requests().len() == 2).then_some(()));
    let arguments = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(PASSWORD));
}

#[test]
fn a_secret_that_everybody_can_read_draws_a_warning() {
    let files = Files::new();
    let exporter = Server::node_exporter();
    let (_gateway, address) = files.gateway("login.yml");
    let push = || run(&files, &exporter.addr, &address, &[CA, USER, FILE]).end();
    for (mode, warns) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(files.file("password"), fs::Permissions::from_mode(mode)).unwrap();
        let ended = push();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        assert_eq!(ended.stderr.contains("everybody on this host can read"), warns, "{ended:?}");
    }
    // A pipe is not waited for.
    fs::remove_file(files.file("password")).unwrap();
    assert!(Command::new("mkfifo").arg(files.file("password")).status().unwrap().success());
    push().failed(2, &["PGW_PASSWORD_FILE", "not a file"]);
}

#[test]
fn tls_is_spoken_with_those_only_who_speak_it() {
    let files = Files::new();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let here = |addr: &str| format!("https://{addr}");
    let push = |exporter: &str, gateway: &str, more: &[(&str, &str)]| {
        run(&files, exporter, gateway, more).env("PGW_PUSH_TIMEOUT", "2").end()
    };
    let ca = ("EXPORTER_CACERT", "ca.crt");
    push(&exporter.addr, &here(&gateway.addr), &[CA]).failed(6, &["not TLS", "http://"]);
    push(&here(&exporter.addr), &gateway.addr, &[ca]).failed(4, &["not TLS", "http://"]);
    let silent = Fake::raw(hang);
    push(&exporter.addr, &here(&silent.addr), &[CA]).failed(6, &["TLS handshake hangs"]);
    push(&here(&silent.addr), &gateway.addr, &[ca]).failed(4, &["TLS handshake hangs"]);
    let closing = Fake::raw(|_| {});
    push(&exporter.addr, &here(&closing.addr), &[CA]).failed(6, &["gateway"]);

    let (secured, _) = files.gateway("server.yml");
    push(&exporter.addr, &secured.addr, &[]).failed(7, &["400", "begins with https://"]);
    let secured = Server::secured_node_exporter(&files.file("server.yml"));
    push(&secured.addr, &gateway.addr, &[]).failed(5, &["400", "begins with https://"]);
    let wants_login = Server::secured_node_exporter(&files.file("login.yml"));
    push(&here(&wants_login.addr), &gateway.addr, &[ca]).failed(5, &["401", "--exporter-user"]);

    // Without TLS, nothing is done for it: to read this store would take for ever.
    let pipe = files.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = run(&files, &exporter.addr, &gateway.addr, &[]);
    run.env("SSL_CERT_FILE", &pipe).end().succeeded();
}

#[test]
fn a_refusal_is_heard_before_all_is_sent_over_tls_too() {
    let files = Files::new();
    let large = exposition(&"a{b=\"c\"} 1\n".repeat(3_000_000));
    let exporter = Fake::answering(move |_| large.clone());
    for config in ["login.yml", "plain-login.yml"] {
        let (_gateway, address) = files.gateway(config);
        let variables = if config == "login.yml" { &[CA][..] } else { &[] };
        let ended = run(&files, &exporter.addr, &address, variables).end();
        ended.failed(7, &["401"]);
    }
    // One that says something of TLS alone, and reads no further, is waited for.
    let addr = format!("127.0.0.1:{}", free_port());
    let mut deaf = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &addr])
        .args(["-cert", &files.path("server.crt"), "-key", &files.path("server.key")])
        // It stops to read when nobody reads what it has read.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("s_server", || TcpStream::connect(&addr).ok());
    let push = run(&files, &exporter.addr, &format!("https://{addr}"), &[CA]);
    let ended = push.env("PGW_PUSH_TIMEOUT", "2").end();
    deaf.kill().unwrap();
    deaf.wait().unwrap();
    ended.failed(6, &["no whole answer within 2 s"]);

    // And a large push that is not refused arrives, whole.
    let (gateway, address) = files.gateway("server.yml");
    let mut body = String::new();
    for n in 0..100_000 {
        body += &format!("a{{b=\"{n}\"}} 1\n");
    }
    let body = exposition(&body);
    let exporter = Fake::answering(move |_| body.clone());
    run(&files, &exporter.addr, &address, &[CA]).end().succeeded();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--cacert", &files.path("ca.crt")]);
    let page = curl.arg(format!("https://{}/metrics", gateway.addr));
    let page = page.output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();

    assert_eq!(page.lines().filter(|line| line.starts_with("a{")).count(), 100_000);
}
