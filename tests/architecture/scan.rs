//! Reads Rust source as far as the rules need it: tokens, and the paths they make.

/// The module one is in while going through a file.
pub(crate) struct Scope {
    /// As in `crate`, `store`, `sqlite`, `log` for `src/store/sqlite/log.rs`.
    pub(crate) path: Vec<String>,
    depth: usize,
    /// The depth around each module that is open.
    open: Vec<usize>,
}

impl Scope {
    pub(crate) fn of(file: &str) -> Self {
        let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
        let mut path = vec!["crate".to_owned()];
        path.extend(inner.split('/').map(str::to_owned));
        path.retain(|name| !["lib", "main", "mod"].contains(&name.as_str()));
        Self {
            path,
            depth: 0,
            open: Vec::new(),
        }
    }

    /// Every path that begins at the token `at`: one, or one for each end of a group.
    pub(crate) fn paths(&self, code: &[Token], at: usize) -> Vec<Named> {
        let relative = ["self", "super"].contains(&word(code, at));
        let base = if relative { self.path.as_slice() } else { &[] };
        let mut found = Vec::new();
        if starts_path(code, at) {
            expand(code, at, base.to_vec(), &mut found);
        }
        found
    }

    /// Takes in the token at `at`; to be called for each in turn.
    pub(crate) fn step(&mut self, code: &[Token], at: usize) {
        match word(code, at) {
            "{" => {
                if at >= 2 && word(code, at - 2) == "mod" {
                    self.path.push(word(code, at - 1).to_owned());
                    self.open.push(self.depth);
                }
                self.depth += 1;
            }
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                if self.open.last() == Some(&self.depth) {
                    self.open.pop();
                    self.path.pop();
                }
            }
            _ => {}
        }
    }
}

/// A path in full, from `crate` or the name of another crate on, and the line it ends on.
pub(crate) type Named = (usize, Vec<String>);

fn starts_path(code: &[Token], at: usize) -> bool {
    let continues = at >= 2
        && word(code, at - 1) == "::"
        && is_name(word(code, at - 2))
        && word(code, at - 2) != "use";
    let root = ["crate", "keyward", "keyward_proto", "self", "super", "std"];
    let whole = word(code, at) == "crate" && word(code, at + 1) == "as";
    !continues && root.contains(&word(code, at)) && (whole || word(code, at + 1) == "::")
}

/// Adds the paths that go on from `path` at the token `at`; returns the token after them.
fn expand(code: &[Token], mut at: usize, mut path: Vec<String>, found: &mut Vec<Named>) -> usize {
    loop {
        match word(code, at) {
            "{" => {
                at += 1;
                while !["}", ""].contains(&word(code, at)) {
                    let comma = word(code, at) == ",";
                    at = if comma {
                        at + 1
                    } else {
                        expand(code, at, path.clone(), found)
                    };
                }
                return at + 1;
            }
            "keyward" if path.is_empty() => path.push("crate".to_owned()),
            "super" => path.truncate(path.len().saturating_sub(1).max(1)),
            "self" => {}
            name => path.push(name.to_owned()),
        }
        let next = word(code, at + 2);
        if word(code, at + 1) != "::" || !(is_name(next) || ["{", "*"].contains(&next)) {
            found.push((code[at].line, path));
            return if word(code, at + 1) == "as" {
                at + 3
            } else {
                at + 1
            };
        }
        at += 2;
    }
}

pub(crate) fn is_prefix(short: &[&str], long: &[String]) -> bool {
    long.len() >= short.len() && short.iter().zip(long).all(|(a, b)| a == b)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first == '_' || first.is_alphabetic())
}

pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The token at `at`, empty behind the end.
pub(crate) fn word(code: &[Token], at: usize) -> &str {
    code.get(at).map_or("", |token| token.text.as_str())
}

/// Names, numbers, `::` and single signs; no comments, strings, characters or lifetimes.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let (mut found, mut rest, mut line) = (Vec::new(), source, 1);
    while let Some(first) = rest.chars().next() {
        let skipped = skipped(rest);
        let length = skipped.unwrap_or_else(|| match name_length(rest) {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            name => name,
        });
        let (text, after) = rest.split_at(length);
        if skipped.is_none() && !first.is_whitespace() {
            found.push(Token {
                text: text.to_owned(),
                line,
            });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    found
}

fn name_length(text: &str) -> usize {
    let end = text.find(|sign: char| sign != '_' && !sign.is_alphanumeric());
    end.unwrap_or(text.len())
}

/// The length of the comment, string, character or lifetime that `rest` opens with.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let name = name_length(rest);
    let (prefix, tail) = rest.split_at(name);
    if !["", "b", "c", "r", "br", "cr"].contains(&prefix) {
        return None;
    }
    let hashes = tail.len() - tail.trim_start_matches('#').len();
    if prefix.ends_with('r') && tail[hashes..].starts_with('"') {
        let end = format!("\"{}", &tail[..hashes]);
        let inner = &tail[hashes + 1..];
        let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
        return Some(name + hashes + 1 + length);
    }
    let quote = tail
        .chars()
        .next()
        .filter(|sign| ['"', '\''].contains(sign))?;
    let inner = &tail[1..];
    if quote == '\'' && !inner.starts_with('\\') && inner.chars().nth(1) != Some('\'') {
        return Some(name + 1 + name_length(inner));
    }
    let mut escaped = false;
    let end = inner.find(|sign: char| {
        let ends = sign == quote && !escaped;
        escaped = sign == '\\' && !escaped;
        ends
    });
    Some(name + 1 + end.map_or(inner.len(), |at| at + 1))
}

/// The length of a block comment, with those inside it.
fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < rest.len() {
        let (step, change) = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
    }
    at
}
