//! Handshakes with a listener by plain rustls, which shows whatever it is told to.

use std::sync::Arc;

use knhk_identity::testing::{Svid, alert, client};
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Error;

/// Something to ask that any listener answers, if only with a complaint.
const QUESTION: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: knhk\r\n\r\n";

/// Shows this certificate, or none, and asks. The alert where the listener refuses it: in TLS 1.3 that comes only after the
/// client's own handshake.
pub async fn ask_with(shown: Option<&Svid>, address: &str) -> Result<Result<(), AlertDescription>, Error> {
    let result = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
        let mut stream = TlsConnector::from(Arc::new(client(shown)))
            .connect(name, tcp)
            .await?;
        stream.write_all(QUESTION).await?;
        stream.read_u8().await
    };
    match result.await {
        Ok(_) => Ok(Ok(())),
        Err(error) => match alert(&error) {
            Some(alert) => Ok(Err(alert)),
            None => Err(Error::io(format!("TLS with {address}"))(error)),
        },
    }
}
