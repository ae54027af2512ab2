//! TLS: what the options say about it, the handshake, and its errors in an administrator's words.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned};
use rustls_native_certs::load_native_certs;

use super::address::Address;
use super::auth::Access;
use super::side::Side;
use super::transport::Socket;

/// Most characters of an error of rustls that a message shows: a certificate may have many names. It can
/// hold no secret of this run: the peer that chose the text had been sent none.
const MAX_TEXT: usize = 300;

/// How to speak TLS to the server at `address`, if it is an https one.
pub fn configure(access: &Access, address: &Address) -> Result<Option<Arc<ClientConfig>>, String> {
    let side = access.side;
    if !address.is_https() {
        let set = ["cacert", "cert", "key"].iter().find(|name| access.options.contains_key(*name));
        return set.map_or(Ok(None), |name| {
            Err(format!("{}: there is no TLS to {address}. Use https://", side.option(name)))
        });
    }
    let mut roots = RootCertStore::empty();
    match certificates(access, "cacert")? {
        Some(certificates) => {
            let error = |e| access.file_error("cacert", &format!("not a certificate: {e}"));
            certificates.into_iter().try_for_each(|c| roots.add(c)).map_err(error)?;
        }
        None => drop(roots.add_parsable_certificates(load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(format!("{}: this system trusts no CA. Set it", side.option("cacert")));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let missing = |name| Err(format!("{}: it is missing", side.option(name)));
    let config = match (certificates(access, "cert")?, access.read_file("key", true)?) {
        (None, None) => config.with_no_client_auth(),
        (Some(chain), Some(pem)) => {
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| access.file_error("key", "no unencrypted private key in PEM"))?;
            let error = |e| access.file_error("key", &format!("not the certificate's key: {e}"));
            config.with_client_auth_cert(chain, key).map_err(error)?
        }
        (Some(_), None) => return missing("key"),
        (None, Some(_)) => return missing("cert"),
    };
    Ok(Some(Arc::new(config)))
}

type Chain = Vec<CertificateDer<'static>>;

/// The certificates in the file that the option `name` names, at least one.
fn certificates(access: &Access, name: &str) -> Result<Option<Chain>, String> {
    let Some(pem) = access.read_file(name, false)? else {
        return Ok(None);
    };
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(Some(found)),
        _ => Err(access.file_error(name, "no certificate in PEM")),
    }
}

/// Begins to speak TLS with `host`.
pub fn handshake(
    mut socket: Socket,
    config: Arc<ClientConfig>,
    host: &str,
) -> io::Result<StreamOwned<ClientConnection, Socket>> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| io::Error::other("no certificate can have its name"))?;
    let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// What an error says, and the options that may mend it, if it is one of TLS.
pub fn describe(error: &io::Error, side: Side) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(why) => describe_certificate_error(why, side),
        Error::AlertReceived(alert) => format!(
            "it refused the connection: {alert:?}. If it wants a certificate from this host, check {}",
            side.option("cert")
        ),
        Error::InvalidMessage(_) => "it does not speak TLS. Use http:// in its address".into(),
        other => format!("TLS: {:.MAX_TEXT$}", other.to_string()),
    })
}

fn describe_certificate_error(error: &CertificateError, side: Side) -> String {
    use CertificateError::*;
    let text = format!("{:.MAX_TEXT$}", error.to_string());
    let why = match error {
        // A CA of the same name, but with another key or kind of key, makes a bad signature.
        UnknownIssuer | BadSignature | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("it is from a CA that is not trusted here. Check {}", side.option("cacert"))
        }
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
            format!("{text}. Check this host's clock, too")
        }
        NotValidForName | NotValidForNameContext { .. } => {
            format!("{text}. Check {}, or add the name (subjectAltName)", side.option("addr"))
        }
        // It has no variant of its own.
        _ if text.contains("CaUsedAsEndEntity") => {
            "it is that of a CA, as `openssl req -x509` makes it. Make it again with \
             `-addext basicConstraints=critical,CA:FALSE`, or let a CA sign one"
                .into()
        }
        _ => text,
    };
    format!("its certificate cannot be accepted: {why}")
}
