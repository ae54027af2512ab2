//! TLS on a connection, and what goes wrong with it in words.

use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error};

use crate::exposition::excerpt;
use crate::socket::Stream;

/// A connection with TLS on it, which blocks as little as the one below it.
#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl TlsStream {
    /// Prepares TLS to `host`; [`TlsStream::handshake`] begins to speak it.
    pub fn new(tcp: TcpStream, config: Arc<ClientConfig>, host: &str) -> io::Result<TlsStream> {
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| io::Error::other("its name can be in no certificate"))?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(TlsStream { tcp, tls })
    }

    /// Goes on with the handshake by one step, without waiting; whether it is done.
    pub fn handshake(&mut self) -> io::Result<bool> {
        if self.tls.wants_write() {
            self.send()?;
        } else if !self.receive()? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(!self.tls.is_handshaking())
    }

    /// Whether there is something to send.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends what is encrypted already.
    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if let Err(e) = self.tls.write_tls(&mut self.tcp) {
                // Before a server hangs up, it may have said why.
                return match e.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => Err(e),
                    _ => self.receive().and(Err(e)),
                };
            }
        }
        Ok(())
    }

    /// Receives what has come, and decrypts it; `false` at the end of the connection.
    fn receive(&mut self) -> io::Result<bool> {
        let amount = self.tls.read_tls(&mut self.tcp)?;
        if let Err(e) = self.tls.process_new_packets() {
            // The server may be told why, if it listens.
            let _ = self.tls.write_tls(&mut self.tcp);
            return Err(io::Error::other(e));
        }
        Ok(amount > 0)
    }
}

impl Stream for TlsStream {
    fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tls.reader().fill_buf().is_err() {
            self.receive()?;
        }
        let mut reader = self.tls.reader();
        let mut seen = reader.fill_buf()?;
        seen.read(buffer)
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.tls.reader().read(buffer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
        // Once, since there may be no end to what TLS has to say to itself: whoever calls this
        // looks at the time in between.
        self.receive()?;
        self.tls.reader().read(buffer)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // What waits is sent first, so that no more waits than the connection's own limit.
        self.send()?;
        self.tls.writer().write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// What an error says if it is one of TLS, for an administrator; `side` begins the options that
/// may mend it.
pub fn cause(error: &io::Error, side: &str) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let see = |option: &str| {
        let variable = format!("{side}_{option}").to_uppercase();
        format!("see --{side}-{option}, {variable}")
    };
    Some(match error {
        Error::InvalidCertificate(why) => match why {
            // An authority of the same name, but another one, makes a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "its certificate is of an authority that is not trusted here ({})",
                see("cacert")
            ),
            CertificateError::NotValidForNameContext {
                expected,
                presented,
            } => {
                // Each comes as KIND(NAME), some in quotes.
                let name = |name: &String| {
                    let mut parts = name.split(['(', ')', '"']).filter(|part| !part.is_empty());
                    parts.nth(1).unwrap_or_default().to_owned()
                };
                let presented: Vec<_> = presented.iter().map(name).collect();
                let presented = match &presented[..] {
                    [] => "nobody".into(),
                    names => excerpt(names.join(", ").as_bytes()),
                };
                let expected = expected.to_str();
                format!("its certificate is not for {expected}, but for {presented}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired, or this host's clock is wrong".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not yet valid, or this host's clock is wrong".into()
            }
            why => {
                let why = excerpt(why.to_string().as_bytes());
                format!("its certificate cannot be accepted: {why}")
            }
        },
        Error::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied),
        ) => format!(
            "it wants a certificate from this host, and none or this one will not do: {alert:?} ({})",
            see("cert")
        ),
        Error::InvalidMessage(_) => "what it speaks is not TLS; is it http://?".into(),
        other => format!("TLS: {}", excerpt(other.to_string().as_bytes())),
    })
}
