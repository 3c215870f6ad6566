//! Secrets in every form in which they could leak, and the search for them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use keyward_core::key::{Prefix, TextForm};
use sha2::Digest as _;

/// What must not be found, each with what it is.
#[derive(Default)]
pub(crate) struct Needles(Vec<(String, Vec<u8>)>);

impl Needles {
    fn add(&mut self, what: String, bytes: impl AsRef<[u8]>) {
        self.0.push((what, bytes.as_ref().to_vec()));
    }

    /// Bytes as they are, in hex and in base64. (Base64 is found at every alignment: without the
    /// digits at both ends that depend on what stands around.)
    fn add_bytes(&mut self, what: &str, bytes: &[u8]) {
        self.add(format!("{what}, raw"), bytes);
        self.add(format!("{what}, hex"), hex::encode(bytes));
        self.add(format!("{what}, HEX"), hex::encode_upper(bytes));
        for shift in 0..3 {
            let shifted = [&[0; 2][..shift], bytes].concat();
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                let text = engine.encode(&shifted);
                self.add(format!("{what}, base64"), &text[4..text.len() - 4]);
            }
        }
        let listed: Vec<_> = bytes.iter().map(u8::to_string).collect();
        self.add(format!("{what}, Debug"), listed.join(", "));
    }

    /// The text of a key or token, its halves, and the bytes that it encodes.
    pub(crate) fn add_text(&mut self, what: &str, text: &str) {
        let prefixes = ["kw", "kwt"].map(|prefix| Prefix::new(prefix).unwrap());
        let (_, body) = TextForm::read(text, &prefixes).unwrap();
        let digits = text.rsplit_once('_').unwrap().1;
        self.add(format!("{what}, its text"), text);
        // The hint shows four characters; more than that shows nowhere.
        self.add(format!("{what}, its first half"), &digits[..20]);
        self.add(format!("{what}, its second half"), &digits[20..43]);
        self.add_bytes(&format!("the text of {what}"), text.as_bytes());
        let bytes = [body.random(), body.tag()].concat();
        self.add_bytes(&format!("the body of {what}"), &bytes);
    }

    /// The text of a foreign key, a UUID, and its digest.
    pub(crate) fn add_foreign(&mut self, text: &str) {
        let what = "an imported key";
        self.add(format!("{what}, its end"), &text[9..]);
        self.add_bytes(what, text.as_bytes());
        self.add_bytes("its digest", &sha2::Sha256::digest(text));
    }

    /// Every secret of a keyring's file.
    pub(crate) fn add_keyring_file(&mut self, path: &std::path::Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let secrets = text.lines().filter_map(|line| line.split_once(" = "));
        for (name, value) in secrets.filter(|(_, value)| value.len() == 64) {
            let what = format!("{name} of {}", path.display());
            self.add_bytes(&what, &hex::decode(value).unwrap());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, Vec<u8>)> {
        self.0.iter()
    }

    /// Every secret that the heaps contain, and where.
    pub(crate) fn find_in<'h>(&self, heaps: impl IntoIterator<Item = &'h Heap>) -> Vec<String> {
        let escape = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|b| format!(r"\x{b:02x}"))
                .collect::<String>()
        };
        let any: Vec<_> = self.iter().map(|(_, bytes)| escape(bytes)).collect();
        let any = regex::bytes::RegexBuilder::new(&any.join("|"))
            .unicode(false)
            .size_limit(1 << 28)
            .build()
            .unwrap();
        let mut found = Vec::new();
        for heap in heaps {
            for hit in any.find_iter(&heap.bytes) {
                let name = |(_, bytes): &&(String, Vec<u8>)| bytes == hit.as_bytes();
                let what = &self.iter().find(name).unwrap().0;
                let around =
                    hit.start().saturating_sub(200)..(hit.end() + 40).min(heap.bytes.len());
                let around = String::from_utf8_lossy(&heap.bytes[around]).into_owned();
                found.push(format!("{what} in {}: …{around}…", heap.name));
            }
        }
        found
    }
}

/// Something that came out of the service.
#[derive(Clone)]
pub(crate) struct Heap {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Heap {
    pub(crate) fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            bytes: bytes.into(),
        }
    }
}

/// All files below `directory`, but for those that are there to hold secrets.
pub(crate) fn files_of(directory: &std::path::Path, when: &str) -> Vec<Heap> {
    let mut heaps = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("keyring") {
            heaps.extend(files_of(&path, when));
        } else if path.is_file() && !path.ends_with("admin.token") {
            let name = format!("{} ({when})", path.display());
            heaps.push(Heap::new(name, std::fs::read(&path).unwrap()));
        }
    }
    heaps
}
