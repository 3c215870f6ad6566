//! The forms of keys: the prefixes of our own, and the formats of another product's.

use keyward_core::key::{ForeignFormat, Prefix, TOKEN_PREFIX};

pub(super) fn prefixes(text: &str) -> Result<Vec<Prefix>, String> {
    let mut prefixes = Vec::new();
    for name in text.split(',').map(str::trim) {
        let prefix = Prefix::new(name).map_err(|error| error.to_string())?;
        if name == TOKEN_PREFIX {
            return Err("'kwt' is the prefix of callers' tokens; choose another".to_owned());
        }
        if prefixes.contains(&prefix) {
            return Err(format!("contains '{name}' twice"));
        }
        prefixes.push(prefix);
    }
    Ok(prefixes)
}

/// No text may be both a key of our own, or a token, and a foreign key.
pub(super) fn foreign_formats(
    text: &str,
    prefixes: &[Prefix],
) -> Result<Vec<ForeignFormat>, String> {
    let ours = prefixes.iter().map(Prefix::as_str).chain([TOKEN_PREFIX]);
    let starts: Vec<_> = ours.map(|prefix| format!("{prefix}_")).collect();
    let mut formats: Vec<ForeignFormat> = Vec::new();
    for text in text.split(',').map(str::trim) {
        let format = ForeignFormat::parse(text)?;
        let name = format.name();
        if formats.iter().any(|known| known.name() == name) {
            return Err(format!("names two formats {name}: give each its own name"));
        }
        if let Some(start) = starts.iter().find(|start| format.can_start_with(start)) {
            return Err(format!(
                "format {name}: a text of it can start with {start}, as Keyward's own keys and tokens \
                 do: choose a longer prefix, or another one in `key_prefixes`"
            ));
        }
        formats.push(format);
    }
    Ok(formats)
}
