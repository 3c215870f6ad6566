//! The secrets that sign messages. A file has one, or two while receivers change from one to the other.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use keyward_crypto::private_file::{self, PrivateFileError};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Endpoint;

/// How the text of a secret begins.
const PREFIX: &str = "whsec_";
/// The longest file, in bytes.
const MAX_FILE: usize = 1_024;
const MAX_SECRETS: usize = 2;

/// The secrets of one webhook.
#[derive(Debug)]
pub(super) struct Secrets(Vec<Secret>);

/// 24 to 64 bytes.
struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Reads the secret file of a webhook.
///
/// # Errors
///
/// What is wrong with it, and what to do.
pub fn check(endpoint: &Endpoint) -> Result<(), String> {
    let file = &endpoint.secret_file;
    read(file).map(drop).map_err(|error| {
        let name = &endpoint.name;
        format!("webhook {name}: secret_file {}: {error}", file.display())
    })
}

/// Reads a file with secrets.
pub(super) fn read(file: &Path) -> Result<Secrets, String> {
    let bytes = private_file::read(file, MAX_FILE).map_err(|error| match error {
        PrivateFileError::NoFile => "is no file".to_owned(),
        PrivateFileError::Exposed => {
            "every user of this machine can read or change it: make another secret, and run `chmod o-rwx` \
             on its file"
                .to_owned()
        }
        PrivateFileError::TooLong => format!("is longer than {MAX_FILE} bytes"),
        PrivateFileError::Read(error) => format!("cannot be read: {error}"),
    })?;
    parse(&bytes).ok_or_else(|| {
        format!(
            "must contain {PREFIX} and the base64 of 24 to 64 random bytes, such as \
             `echo whsec_$(openssl rand -base64 32)`; or two such lines, the new secret first"
        )
    })
}

fn parse(bytes: &[u8]) -> Option<Secrets> {
    let text = std::str::from_utf8(bytes).ok()?;
    let secrets = text.split_whitespace().map(|line| {
        let bytes = STANDARD.decode(line.strip_prefix(PREFIX)?).ok()?;
        let secret = Secret(Zeroizing::new(bytes));
        (24..=64).contains(&secret.0.len()).then_some(secret)
    });
    let secrets: Vec<_> = secrets.collect::<Option<_>>()?;
    (1..=MAX_SECRETS)
        .contains(&secrets.len())
        .then_some(Secrets(secrets))
}

impl Secrets {
    /// The header `webhook-signature` of a message: a signature by each secret.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = self.0.iter().filter_map(|secret| {
            // HMAC takes a key of any length.
            let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).ok()?;
            mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
            Some(format!(
                "v1,{}",
                STANDARD.encode(mac.finalize().into_bytes())
            ))
        });
        signed.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The example of the specification's libraries.
    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        let secrets = parse(SECRET.as_bytes()).unwrap();
        let signature = secrets.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_sign_twice() {
        let other = format!("whsec_{}", STANDARD.encode([7; 64]));
        let both = parse(format!("{other}\n{SECRET}\n").as_bytes()).unwrap();
        let each = [other.as_str(), SECRET].map(|secret| parse(secret.as_bytes()).unwrap());
        let each = each.map(|secret| secret.sign("a", 1, "{}"));
        assert_eq!(both.sign("a", 1, "{}"), each.join(" "));
        assert!(!format!("{both:?}").contains("MfKQ9r8"));
    }

    #[test]
    fn other_texts_are_no_secrets() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let three = format!("{SECRET} {SECRET} {SECRET}");
        for text in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!",
            &short,
            &long,
            &three,
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
