//! The formats of foreign keys: how they are given, and when they are refused.

use super::*;

#[test]
fn foreign_formats_are_texts_or_tables() {
    let shown = "uuid,old:sk_live_:base62:32";
    let file = "foreign_formats = [\"uuid\", { length = 32, name = \"old\", prefix = \"sk_live_\", alphabet = \"base62\" }]";
    for case in [
        Case::new().file(file),
        Case::new().variable("KEYWARD_FOREIGN_FORMATS", &shown.replace(',', ", ")),
    ] {
        assert_eq!(case.entry("foreign_formats").0, shown);
    }
    assert_eq!(Case::new().entry("foreign_formats").0, "none");
    for table in [
        "{ name = \"old\", prefix = \"\", alphabet = \"hex\" }",
        "{ name = \"old\", prefix = \"\", alphabet = \"hex\", length = 32, more = 1 }",
        "{ name = \"old\", prefix = \"a:b\", alphabet = \"hex\", length = 32 }",
        "{ name = \"old\", prefix = true, alphabet = \"hex\", length = 32 }",
    ] {
        let errors = Case::new()
            .file(&format!("foreign_formats = [{table}]"))
            .errors();
        assert!(
            errors[0].contains("takes tables with the keys name, prefix, alphabet, length, whose"),
            "{errors:?}"
        );
    }
    for value in ["7", "[7]"] {
        let errors = Case::new()
            .file(&format!("foreign_formats = {value}"))
            .errors();
        assert!(
            errors[0].contains("takes an array of strings and tables"),
            "{errors:?}"
        );
    }
}

/// No text is both a foreign key and a key or token of our own.
#[test]
fn a_foreign_format_that_overlaps_or_can_be_guessed_is_refused() {
    for (prefixes, formats, reason) in [
        ("kw", "uuid,uuid", "names two formats uuid"),
        ("kw", "a::hex:32,a:x:hex:32", "names two formats a"),
        (
            "kw",
            "a::base64url:32",
            "format a: a text of it can start with kw_",
        ),
        (
            "acme",
            "a:kwt_:hex:32",
            "format a: a text of it can start with kwt_",
        ),
        (
            "kw,acme",
            "uuid,a:acme:base64url:32",
            "can start with acme_",
        ),
        ("kw", "a:kw_live_:hex:32", "can start with kw_"),
        ("kw", "a::hex:16", "fewer than 96 bits"),
        ("kw", "a::hex:400", "1 to 256"),
        ("kw", "a:é:hex:32", "printable ASCII"),
        ("kw", "uuid,", "'' is no format"),
    ] {
        let case = Case::new()
            .flag("key_prefixes", prefixes)
            .flag("foreign_formats", formats);
        let errors = case.errors();
        assert!(
            errors.len() == 1 && errors[0].contains(reason),
            "{formats}: {errors:?}"
        );
    }
}

#[test]
fn events_of_the_audit_are_kept_for_a_month_at_least() {
    for (text, shown) in [("30d", "30d"), ("none", "none"), ("36500d", "36500d")] {
        let case = Case::new().flag("audit_retention", text);
        assert_eq!(case.entry("audit_retention").0, shown);
    }
    assert_eq!(Case::new().entry("audit_retention").0, "400d");
    for text in ["29d", "0", "", "forever", "36501d", "-1d"] {
        let errors = Case::new().flag("audit_retention", text).errors();
        assert!(
            errors.len() == 1 && errors[0].contains("30d to 36500d, or none"),
            "{text}: {errors:?}"
        );
    }
}
