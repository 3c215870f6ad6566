//! Texts that resemble a key: none is VALID, and each gets the right verdict.

use keyward_proto::v1::{self, Verdict};
use keyward_testkit::{Client, refused};
use tonic::Code;

use super::*;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The verdicts on many texts.
async fn verdicts(client: &Client, texts: &[String]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for texts in texts.chunks(256) {
        let requests = texts.iter().map(|text| verifying(text)).collect();
        let request = v1::VerifyBatchRequest { requests };
        let reply = client.send(request).await.unwrap();
        verdicts.extend(reply.responses.iter().map(v1::VerifyResponse::verdict));
    }
    assert_eq!(verdicts.len(), texts.len());
    verdicts
}

/// `body` with the checksum that it should have.
fn with_checksum(body: &str) -> String {
    let mut crc = crc32fast::hash(body.as_bytes());
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[crc as usize % 62];
        crc /= 62;
    }
    format!("{body}{}", std::str::from_utf8(&digits).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_one_character_changed_anywhere_is_malformed() {
    let (_local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let mut changed = Vec::new();
    for at in 0..key.len() {
        for other in ["0", "Z", "a", "_", " ", "é"] {
            if &key[at..=at] != other {
                changed.push(format!("{}{other}{}", &key[..at], &key[at + 1..]));
            }
        }
        changed.push(format!("{}{}", &key[..at], &key[at + 1..]));
    }
    let all = verdicts(&client, &changed).await;
    assert!(
        all.iter().all(|verdict| *verdict == Verdict::Malformed),
        "{all:?}"
    );
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invented_key_with_the_right_checksum_is_not_found() {
    let (_local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    assert_eq!(with_checksum(&key[..key.len() - 6]), key);
    let body = key.len() - 6;
    // From the third digit on: the first two can make a number that no 32 bytes hold.
    let invented: Vec<_> = (5..body)
        .map(|at| {
            let other = if &key[at..=at] == "0" { "1" } else { "0" };
            with_checksum(&format!("{}{other}{}", &key[..at], &key[at + 1..body]))
        })
        .collect();
    let all = verdicts(&client, &invented).await;
    assert!(
        all.iter().all(|verdict| *verdict == Verdict::NotFound),
        "{all:?}"
    );
    let none = with_checksum(&format!("kw_{}", "z".repeat(43)));
    assert_eq!(client.verify(&none).await.unwrap(), Verdict::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_exactly_as_it_is() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let almost = [
        key.to_lowercase(),
        key.to_uppercase(),
        key.replacen("kw_", "kx_", 1),
        key.replacen("kw_", "kwt_", 1),
        key.replacen("kw_", "", 1),
        with_checksum(&key[..key.len() - 6].replacen("kw_", "kx_", 1)),
        format!(" {key}"),
        format!("{key} "),
        format!("{key}\n"),
        format!("\r\n{key}"),
        format!("\u{feff}{key}"),
        format!("{key}\0"),
        format!("Bearer {key}"),
        format!("bearer {key}"),
        format!("\"{key}\""),
        format!("{key}{key}"),
        format!("kw_{key}"),
        " ".to_owned(),
        "kw_".to_owned(),
        "_".to_owned(),
        id.clone(),
        "x".repeat(1_000_000),
        format!("kw_{}", "0".repeat(1_000_000)),
        "_".repeat(1_000_000),
    ];
    for text in &almost {
        let shown: String = text.chars().take(80).collect();
        assert_eq!(
            client.verify(text).await.unwrap(),
            Verdict::Malformed,
            "{shown}"
        );
        let outcome = client.send(getting_by_text(text)).await;
        refused(outcome, Code::NotFound, "KEY_NOT_FOUND");
        let outcome = client.send(by_text(text)).await;
        refused(outcome, Code::NotFound, "KEY_NOT_FOUND");
    }
    assert_eq!(client.verify("").await.unwrap(), Verdict::Malformed);
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
}
