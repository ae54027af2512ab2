//! What lets this host in where not everybody may: credentials and certificates.

use std::env;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use log::warn;
use rustix::fs::OFlags;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::address::Address;
use crate::logging;

/// Bytes of a file with a secret or a certificate; the trust stores of systems have a quarter.
const MOST_FILE: u64 = 1 << 20;

/// Bytes of a header with credentials, which has to fit into what a connection keeps.
const MOST_AUTHORIZATION: usize = 8192;

/// The header of basic auth with `USER:PASSWORD`. The password is shown neither as it is nor as it
/// goes over the wire.
pub fn basic(credentials: &[u8]) -> String {
    let encoded = STANDARD.encode(credentials);
    logging::conceal(&encoded);
    let credentials = String::from_utf8_lossy(credentials);
    if let Some((_, password)) = credentials.split_once(':') {
        logging::conceal(password);
    }
    format!("Basic {encoded}")
}

/// The options of one side, under the names and variables that begin with it.
macro_rules! options {
    ($name:ident, $side:literal, $variable:literal, $heading:literal) => {
        #[doc = concat!("The options that begin with --", $side, ".")]
        #[derive(Debug, Args)]
        pub struct $name {
            #[arg(id = concat!($side, "_user"), long = concat!($side, "-user"))]
            #[arg(env = concat!($variable, "_USER"), value_name = "USER", help_heading = $heading)]
            #[arg(help = concat!("User for basic auth; the password is in ", $variable, "_PASSWORD or a file"))]
            user: Option<String>,

            #[arg(id = concat!($side, "_password_file"), long = concat!($side, "-password-file"))]
            #[arg(env = concat!($variable, "_PASSWORD_FILE"), value_name = "FILE", help_heading = $heading)]
            #[arg(help = "File with the user's password; a newline at its end is not part of it")]
            password_file: Option<PathBuf>,

            #[arg(id = concat!($side, "_token_file"), long = concat!($side, "-token-file"))]
            #[arg(env = concat!($variable, "_TOKEN_FILE"), value_name = "FILE", help_heading = $heading)]
            #[arg(help = concat!("File with a bearer token, which can also be in ", $variable, "_TOKEN"))]
            token_file: Option<PathBuf>,

            #[arg(id = concat!($side, "_cacert"), long = concat!($side, "-cacert"))]
            #[arg(env = concat!($variable, "_CACERT"), value_name = "FILE", help_heading = $heading)]
            #[arg(help = "Trust the certificate authorities in this PEM file, not the system's")]
            cacert: Option<PathBuf>,

            #[arg(id = concat!($side, "_cert"), long = concat!($side, "-cert"))]
            #[arg(env = concat!($variable, "_CERT"), value_name = "FILE", help_heading = $heading)]
            #[arg(help = "Show this certificate (PEM, with its chain) when the server asks for one")]
            cert: Option<PathBuf>,

            #[arg(id = concat!($side, "_key"), long = concat!($side, "-key"))]
            #[arg(env = concat!($variable, "_KEY"), value_name = "FILE", help_heading = $heading)]
            #[arg(help = "The private key of that certificate (PEM, not encrypted)")]
            key: Option<PathBuf>,
        }

        impl $name {
            /// What they come to for each of the servers; the error names the option.
            pub fn access(&self, servers: &[Address]) -> Result<Vec<Access>, String> {
                let side = Side($side);
                let authorization = side.authorization(
                    self.user.as_deref(),
                    self.password_file.as_deref(),
                    self.token_file.as_deref(),
                )?;
                let tls = side.tls(
                    servers,
                    self.cacert.as_deref(),
                    self.cert.as_deref(),
                    self.key.as_deref(),
                )?;
                let servers = servers.iter();
                servers
                    .map(|server| side.access(server, authorization.clone(), tls.clone()))
                    .collect()
            }
        }
    };
}

options!(ExporterAccess, "exporter", "EXPORTER", "Exporter");
options!(GatewayAccess, "pgw", "PGW", "Gateway");

/// An option of the side whose options begin with `side`, and its variable, as messages name them.
pub fn named(side: &str, option: &str) -> String {
    let name = format!("{side}_{option}");
    format!("--{} ({})", name.replace('_', "-"), name.to_uppercase())
}

/// How to be let in.
#[derive(Default)]
pub struct Access {
    /// What the options of this side begin with.
    pub side: &'static str,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// How to speak TLS, where the address is an https one.
    pub tls: Option<Arc<ClientConfig>>,
}

/// What the options of one side begin with.
struct Side(&'static str);

impl Side {
    fn named(&self, option: &str) -> String {
        named(self.0, option)
    }

    /// A variable that has no option.
    fn variable(&self, name: &str) -> String {
        format!("{}_{name}", self.0).to_uppercase()
    }

    /// How to be let in at one server.
    fn access(
        &self,
        server: &Address,
        given: Option<String>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Access, String> {
        let own = server.credentials().map(basic);
        if own.is_some() && given.is_some() {
            return Err(self.too_many());
        }
        let authorization = own.or(given);
        if authorization
            .as_ref()
            .is_some_and(|way| way.len() > MOST_AUTHORIZATION)
        {
            let user = self.named("user");
            return Err(format!("{user}: the credentials are too long"));
        }
        Ok(Access {
            side: self.0,
            authorization,
            tls: tls.filter(|_| server.is_https()),
        })
    }

    fn too_many(&self) -> String {
        format!(
            "{}: there are several of a user, a token, and credentials in the address",
            self.named("user")
        )
    }

    /// What the options give to be let in with, at any server.
    fn authorization(
        &self,
        user: Option<&str>,
        password_file: Option<&Path>,
        token_file: Option<&Path>,
    ) -> Result<Option<String>, String> {
        let password = self.secret("password", password_file)?;
        let basic_auth = match (user, password) {
            (None, None) => None,
            (Some(user), Some(_)) if user.contains(':') => {
                return Err(format!("{}: a user has no colon", self.named("user")));
            }
            (Some(user), Some(password)) => {
                Some(basic(&[user.as_bytes(), b":", &password].concat()))
            }
            (Some(_), None) => {
                let (user, file) = (self.named("user"), self.named("password_file"));
                let variable = self.variable("password");
                return Err(format!(
                    "{user}: its password is missing: {variable}, {file}"
                ));
            }
            (None, Some(_)) => {
                return Err(format!(
                    "{}: it is missing, and a password is there",
                    self.named("user")
                ));
            }
        };
        let bearer = match self.secret("token", token_file)? {
            None => None,
            Some(token) if !token.is_empty() && token.iter().all(u8::is_ascii_graphic) => {
                Some(format!("Bearer {}", String::from_utf8_lossy(&token)))
            }
            Some(_) => {
                let token = self.named("token_file");
                return Err(format!("{token}: a token is one word of printable ASCII"));
            }
        };
        match (basic_auth, bearer) {
            (Some(_), Some(_)) => Err(self.too_many()),
            (one, other) => Ok(one.or(other)),
        }
    }

    /// A secret, from a file or the variable.
    fn secret(&self, kind: &str, file: Option<&Path>) -> Result<Option<Vec<u8>>, String> {
        let variable = self.variable(kind);
        let option = format!("{kind}_file");
        let secret = match (file, env::var_os(&variable)) {
            (None, None) => return Ok(None),
            (None, Some(secret)) => secret.into_vec(),
            (Some(file), None) => {
                let mut secret = self.file(&option, file, true)?;
                for end in *b"\n\r" {
                    if secret.last() == Some(&end) {
                        secret.pop();
                    }
                }
                secret
            }
            (Some(_), Some(_)) => {
                let option = self.named(&option);
                return Err(format!("{option}: there is {variable}, too; give one"));
            }
        };
        logging::conceal(&String::from_utf8_lossy(&secret));
        Ok(Some(secret))
    }

    /// How to speak TLS to those of the servers that do.
    fn tls(
        &self,
        servers: &[Address],
        cacert: Option<&Path>,
        cert: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Option<Arc<ClientConfig>>, String> {
        let given = [("cacert", cacert), ("cert", cert), ("key", key)];
        let given = given.iter().find(|(_, file)| file.is_some());
        if let (Some((option, _)), false) = (given, servers.iter().all(Address::is_https)) {
            let option = self.named(option);
            return Err(format!("{option}: there is no TLS to an http:// address"));
        }
        if !servers.iter().any(Address::is_https) {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        match cacert {
            Some(file) => {
                for certificate in self.certificates("cacert", file)? {
                    let bad = |e| self.bad("cacert", file, &format!("no certificate: {e}"));
                    roots.add(certificate).map_err(bad)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    let option = self.named("cacert");
                    return Err(format!(
                        "{option}: it has to be given, this system trusts nobody"
                    ));
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match (cert, key) {
            (None, None) => config.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let pem = self.file("key", key, true)?;
                let pem = PrivateKeyDer::from_pem_slice(&pem);
                let pem =
                    pem.map_err(|_| self.bad("key", key, "no private key without a password"))?;
                let bad = |e| {
                    self.bad(
                        "key",
                        key,
                        &format!("not the key of {}: {e}", cert.display()),
                    )
                };
                let chain = self.certificates("cert", cert)?;
                config.with_client_auth_cert(chain, pem).map_err(bad)?
            }
            (Some(_), None) => return Err(format!("{}: it is missing", self.named("key"))),
            (None, Some(_)) => return Err(format!("{}: it is missing", self.named("cert"))),
        };
        Ok(Some(Arc::new(config)))
    }

    /// The certificates in a PEM file, one at least.
    fn certificates(
        &self,
        option: &str,
        file: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let pem = self.file(option, file, false)?;
        let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let found = found.ok().filter(|certificates| !certificates.is_empty());
        found.ok_or_else(|| self.bad(option, file, "no certificate in PEM"))
    }

    /// Reads a file; draws attention to a secret one that everybody can read.
    fn file(&self, option: &str, path: &Path, is_secret: bool) -> Result<Vec<u8>, String> {
        let bad = |e: std::io::Error| self.bad(option, path, &e.to_string());
        // To open a FIFO is not to wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(bad)?;
        let found = file.metadata().map_err(bad)?;
        if !found.is_file() {
            return Err(self.bad(option, path, "not a file"));
        }
        if is_secret && found.mode() & 0o004 != 0 {
            let (path, option) = (path.display(), self.named(option));
            warn!("{option}: everybody on this host can read {path}: chmod o= {path}");
        }
        let mut content = Vec::new();
        file.take(MOST_FILE + 1)
            .read_to_end(&mut content)
            .map_err(bad)?;
        if content.len() as u64 > MOST_FILE {
            return Err(self.bad(option, path, "larger than any such file"));
        }
        Ok(content)
    }

    fn bad(&self, option: &str, path: &Path, why: &str) -> String {
        format!("{}: {}: {why}", self.named(option), path.display())
    }
}
