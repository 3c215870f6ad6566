//! Entries and change notices in Redis, which another program may write. Without the cache key no
//! bytes are an entry. With it, bytes are a record that encodes to itself, or nothing.

use keyward::cache::l2::encoding::{decode, encode};
use keyward::system::SystemEntropy;
use keyward_crypto::Digest;

use crate::{Target, key_text};

/// The input is a sealed entry, the content of one, or a notice.
pub fn target() -> Target {
    let keyring = key_text::keyring();
    let key = keyring.cache_key().expect("the keyring has a cache key");
    let digest = Digest::from_bytes([7; 32]);
    Box::new(move |data| {
        assert!(key.open(&digest, data).is_none(), "nobody sealed it");
        assert!(key.verify_notice(data).is_none(), "nobody signed it");
        let sealed = key.seal(&digest, data, &SystemEntropy);
        let opened = key.open(&digest, &sealed.expect("it is short"));
        assert!(opened.as_deref() == Some(data), "it opens as sealed");
        if let Some((record, stamp)) = decode(data) {
            let again = decode(&encode(&record, stamp));
            assert_eq!(again, Some((record, stamp)));
        }
    })
}
