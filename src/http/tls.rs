//! TLS: what the options say about it, the handshake, and its errors in an administrator's words.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, Error};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_native_certs::load_native_certs;

use super::access::Access;
use super::address::Address;
use super::side::Side;
use super::transport::Socket;
use crate::logging::quote;

/// How to speak TLS to the server at `address`, if it is an https one.
pub fn configure(access: &Access, address: &Address) -> Result<Option<Arc<ClientConfig>>, String> {
    let side = access.side;
    let set = ["cacert", "cert", "key"].iter().find(|name| access.options.contains_key(*name));
    match (address.is_https(), set) {
        (true, _) => {}
        (false, None) => return Ok(None),
        (false, Some(name)) => {
            return Err(format!(
                "{}: there is no TLS to {address}. Use https://",
                side.option(name)
            ));
        }
    }
    let mut roots = RootCertStore::empty();
    match certificates(access, "cacert")? {
        Some(certificates) => {
            for certificate in certificates {
                let added = roots.add(certificate);
                added
                    .map_err(|e| access.file_error("cacert", &format!("not a certificate: {e}")))?;
            }
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
        other => format!("TLS: {}", quote(other.to_string().as_bytes())),
    })
}

fn describe_certificate_error(why: &CertificateError, side: Side) -> String {
    let why = match why {
        // A CA of the same name, but with another key, makes a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("it is from a CA that is not trusted here. Check {}", side.option("cacert"))
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("{why}. Check this host's clock, too")
        }
        // It has no variant of its own.
        why if why.to_string().contains("CaUsedAsEndEntity") => {
            "it is that of a CA, as `openssl req -x509` makes it. Make it again with \
             `-addext basicConstraints=critical,CA:FALSE`, or let a CA sign one"
                .into()
        }
        why => why.to_string(),
    };
    format!("its certificate cannot be accepted: {}", quote(why.as_bytes()))
}
