//! The frames of a Postgres server's messages, to drop some of them.

/// The server's answer to a request for encryption: TLS, GSSAPI, or no.
const ENCRYPTED: [u8; 2] = [b'S', b'G'];
const IN_CLEAR: u8 = b'N';
/// The type of `NotificationResponse`.
const NOTIFICATION: u8 = b'A';

/// The position in the stream of a server's messages. A message is a type, a length that includes
/// itself, and the content.
#[derive(Clone, Copy, Default)]
enum At {
    /// Before the first message, where one-byte answers to encryption requests are possible.
    #[default]
    Start,
    /// The following bytes are encrypted or invalid.
    Opaque,
    Type,
    Length {
        read: u8,
        value: u32,
        lost: bool,
    },
    Body {
        left: u32,
        lost: bool,
    },
}

/// Parses the stream.
#[derive(Default)]
pub(super) struct Frames(At);

impl Frames {
    /// Parses the next bytes. With `losing`, removes the notifications that start in them. Returns
    /// their number.
    pub(super) fn filter(&mut self, bytes: &mut Vec<u8>, losing: bool) -> u64 {
        let mut count = 0;
        bytes.retain(|byte| {
            let (next, lost) = self.0.step(*byte, losing);
            count += u64::from(lost && matches!(self.0, At::Start | At::Type));
            self.0 = next;
            !lost
        });
        count
    }
}

impl At {
    /// The position after `byte`, and whether the byte is removed.
    fn step(self, byte: u8, losing: bool) -> (Self, bool) {
        match self {
            Self::Start if byte == IN_CLEAR => (self, false),
            Self::Start if ENCRYPTED.contains(&byte) => (Self::Opaque, false),
            Self::Opaque => (self, false),
            Self::Start | Self::Type => {
                let lost = losing && byte == NOTIFICATION;
                (
                    Self::Length {
                        read: 0,
                        value: 0,
                        lost,
                    },
                    lost,
                )
            }
            Self::Length { read, value, lost } => {
                let value = value << 8 | u32::from(byte);
                let next = match (read, value.saturating_sub(4)) {
                    (3, 0) => Self::Type,
                    (3, left) => Self::Body { left, lost },
                    _ => Self::Length {
                        read: read + 1,
                        value,
                        lost,
                    },
                };
                (next, lost)
            }
            Self::Body { left: 1, lost } => (Self::Type, lost),
            Self::Body { left, lost } => (
                Self::Body {
                    left: left - 1,
                    lost,
                },
                lost,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], length.to_be_bytes().as_slice(), body].concat()
    }

    #[test]
    fn notifications_are_left_out_however_the_stream_is_cut() {
        let messages = [
            message(b'R', &[0, 0, 0, 0]),
            message(NOTIFICATION, b"first"),
            message(b'1', b""),
            message(b'D', b"AAAAAAAAAA"),
            message(NOTIFICATION, b""),
            message(b'Z', b"I"),
        ];
        let stream = [b"N".as_slice(), &messages.concat()].concat();
        let kept = [0, 2, 3, 5].map(|n: usize| messages[n].clone()).concat();
        let kept = [b"N".as_slice(), &kept].concat();
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let (mut passed, mut lost) = (Vec::new(), 0);
            for piece in stream.chunks(size) {
                let mut piece = piece.to_vec();
                lost += frames.filter(&mut piece, true);
                passed.extend(piece);
            }
            assert_eq!((passed.as_slice(), lost), (kept.as_slice(), 2), "{size}");
        }
        let mut all = stream.clone();
        assert_eq!(Frames::default().filter(&mut all, false), 0);
        assert_eq!(all, stream);
    }

    #[test]
    fn an_encrypted_stream_passes_untouched() {
        let stream = [b"S".as_slice(), &message(NOTIFICATION, b"looks like one")].concat();
        let mut bytes = stream.clone();
        assert_eq!(Frames::default().filter(&mut bytes, true), 0);
        assert_eq!(bytes, stream);
    }
}
