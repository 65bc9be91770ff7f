//! Ports that stay ours while a process comes and goes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket_with, sockopt};

use crate::Error;

/// A loopback port that the system gives to nobody else while this lives.
///
/// The socket is bound and never listens: a connection to it is refused, unless a process that sets `SO_REUSEADDR`, as
/// Envoy and tokio do, listens there. So a service can be killed and started again on its port among parallel tests.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: OwnedFd,
}

impl Port {
    /// Takes a free port of 127.0.0.1.
    pub fn reserve() -> Result<Self, Error> {
        Self::hold(0)
    }

    /// Takes this port of 127.0.0.1, or says that it is in use.
    pub fn take(port: u16) -> Result<Self, Error> {
        Self::hold(port)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn hold(port: u16) -> Result<Self, Error> {
        let what = || format!("port 127.0.0.1:{port}");
        let io = |errno: rustix::io::Errno| Error::io(what())(errno.into());
        let held = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io)?;
        sockopt::set_socket_reuseaddr(&held, true).map_err(io)?;
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).map_err(io)?;
        let address = SocketAddr::try_from(getsockname(&held).map_err(io)?).map_err(io)?;
        Ok(Self { address, _held: held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn held_ports_are_distinct_refuse_and_can_be_listened_on() {
        let ports: Vec<Port> = (0..500).map(|_| Port::reserve().expect("a free port")).collect();
        let distinct: HashSet<SocketAddr> = ports.iter().map(Port::address).collect();
        assert_eq!(distinct.len(), ports.len());
        let address = ports[0].address();
        assert!(TcpStream::connect(address).is_err(), "nobody listens yet");
        for _ in 0..3 {
            let listener = TcpListener::bind(address).expect("std sets SO_REUSEADDR");
            TcpStream::connect(address).expect("somebody listens");
            drop(listener);
        }
    }

    #[test]
    fn a_port_somebody_listens_on_cannot_be_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let error = Port::take(port).expect_err("in use");
        assert!(
            error.to_string().contains(&format!("127.0.0.1:{port}")),
            "{error}"
        );
    }
}
