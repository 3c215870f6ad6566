//! The parts of the Redis protocol, version 2, that the harness needs, with blocking sockets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The time limit for a response.
const PATIENCE: Duration = Duration::from_secs(20);

/// A response of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The value does not exist.
    Nil,
    /// A number.
    Int(i64),
    /// A value.
    Bulk(Vec<u8>),
    /// A status such as `OK`.
    Simple(String),
    /// An error, which starts with its code.
    Error(String),
    /// An array.
    Array(Vec<Reply>),
}

impl Reply {
    /// The response as text: empty for [`Reply::Nil`], one line for each element of an array.
    pub fn text(&self) -> String {
        match self {
            Self::Nil => String::new(),
            Self::Int(number) => number.to_string(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Simple(text) | Self::Error(text) => text.clone(),
            Self::Array(replies) => {
                let lines: Vec<_> = replies.iter().map(Self::text).collect();
                lines.join("\n")
            }
        }
    }
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A connection without TLS.
pub struct RedisConnection(BufReader<Box<dyn Stream>>);

impl RedisConnection {
    /// Connects to a server or to a proxy.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_for(address, PATIENCE)
    }

    /// Connects. A response that takes longer than `patience` is an error.
    pub fn connect_for(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    /// Connects to the Unix socket of a server.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    /// Sends a command and reads its response. Do not use the connection after an error.
    pub fn query(&mut self, parts: &[&[u8]]) -> io::Result<Reply> {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            bytes.extend(format!("${}\r\n", part.len()).into_bytes());
            bytes.extend(*part);
            bytes.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes)?;
        self.reply()
    }

    /// Sends a command of text and reads its response.
    pub fn ask(&mut self, parts: &[&str]) -> io::Result<Reply> {
        let parts: Vec<_> = parts.iter().map(|part| part.as_bytes()).collect();
        self.query(&parts)
    }

    /// Reads the next response, also an unrequested one, such as a message of a subscription.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let mut rest = line.chars();
        let kind = rest.next().unwrap_or_default();
        let rest = rest.as_str();
        let number = || rest.parse::<i64>().map_err(|_| unreadable(&line));
        match kind {
            '+' => Ok(Reply::Simple(rest.to_owned())),
            '-' => Ok(Reply::Error(rest.to_owned())),
            ':' => Ok(Reply::Int(number()?)),
            '$' => {
                let Ok(length) = usize::try_from(number()?) else {
                    return Ok(Reply::Nil);
                };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(Reply::Bulk(bytes))
            }
            '*' => {
                let Ok(length) = usize::try_from(number()?) else {
                    return Ok(Reply::Nil);
                };
                let replies = (0..length).map(|_| self.reply());
                Ok(Reply::Array(replies.collect::<io::Result<_>>()?))
            }
            _ => Err(unreadable(&line)),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.0.read_until(b'\n', &mut bytes)?;
        match bytes.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None if bytes.ends_with(b"\n") => Err(unreadable(&String::from_utf8_lossy(&bytes))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn unreadable(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no answer of a Redis server: {line:?}"),
    )
}
