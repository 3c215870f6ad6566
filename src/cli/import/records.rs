//! Reads the records of a file: CSV with a header, or one JSON object a line. Holds one record at a time,
//! of a limited size, for a file of any size.

use std::io::{self, BufRead, BufReader, Read};

use csv_core::ReadRecordResult;
use keyward_proto::v1::ImportKey;
use serde_json::Value;

use super::super::args::FileFormat;
use super::fields::{COLUMNS, key_of};

/// The most bytes of a record. The largest valid one is smaller.
const MAX_RECORD: usize = 256 << 10;
/// The most fields of a CSV record.
const MAX_FIELDS: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A record, with the number of its first line.
pub(super) struct Record {
    pub(super) line: u64,
    /// The key, or why it is none.
    pub(super) key: Result<ImportKey, String>,
}

/// The records of a file.
pub(super) struct Records {
    lines: Lines,
    /// `None` for JSON.
    csv: Option<Csv>,
    text: Vec<u8>,
}

impl Records {
    /// Begins to read. Without a `format`, a file that starts with a brace is JSON.
    pub(super) fn new(
        input: Box<dyn Read + Send>,
        format: Option<FileFormat>,
    ) -> Result<Self, String> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        let start = input.fill_buf().map_err(|error| unreadable(&error))?;
        if start.is_empty() {
            return Err("the file is empty".to_owned());
        }
        let mark = match start.starts_with(BYTE_ORDER_MARK) {
            true => BYTE_ORDER_MARK.len(),
            false => 0,
        };
        let is_json = match format {
            Some(format) => format == FileFormat::Jsonl,
            None => start.get(mark) == Some(&b'{'),
        };
        input.consume(mark);
        let lines = Lines { input, number: 0 };
        let mut records = Self {
            lines,
            csv: None,
            text: Vec::new(),
        };
        if !is_json {
            let mut csv = Csv::new();
            let header = records.lines.record(&mut records.text, true);
            let header = header.map_err(|error| unreadable(&error))?;
            let header = header.ok_or("the file is empty")?;
            let header = header.1.and_then(|()| csv.fields(&records.text));
            csv.columns = header.map_err(|reason| format!("the header {reason}"))?;
            check_header(&csv.columns)?;
            records.csv = Some(csv);
        }
        Ok(records)
    }

    /// The next record; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Record>, String> {
        let next = self.lines.record(&mut self.text, self.csv.is_some());
        let Some((line, readable)) = next.map_err(|error| unreadable(&error))? else {
            return Ok(None);
        };
        let text = &self.text;
        let key = readable.and_then(|()| match &mut self.csv {
            Some(csv) => csv.key(text),
            None => json_key(text),
        });
        Ok(Some(Record { line, key }))
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot read the file: {error}")
}

/// The lines of a file.
struct Lines {
    input: BufReader<Box<dyn Read + Send>>,
    /// The number of lines so far.
    number: u64,
}

impl Lines {
    /// Reads the next record that is not an empty line. Returns the number of its first line, and what is
    /// wrong if it is too long. With `quotes`, a line end between quotes belongs to the record.
    fn record(
        &mut self,
        text: &mut Vec<u8>,
        quotes: bool,
    ) -> io::Result<Option<(u64, Result<(), String>)>> {
        text.clear();
        let mut first = self.number + 1;
        let mut quotes_so_far = 0;
        loop {
            let Some(quotes_of_line) = self.append(text)? else {
                return Ok((!text.is_empty()).then(|| (first, fitting(text))));
            };
            quotes_so_far += quotes_of_line;
            if quotes && quotes_so_far % 2 == 1 {
                push(text, b"\n");
                continue;
            }
            if text.last() == Some(&b'\r') {
                text.pop();
            }
            if !text.is_empty() {
                return Ok(Some((first, fitting(text))));
            }
            first = self.number + 1;
        }
    }

    /// Appends the next line without its end. Returns the number of its quotes; `None` at the end of the
    /// file.
    fn append(&mut self, text: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let (mut quotes, mut is_any) = (0, false);
        loop {
            let chunk = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() && !is_any {
                return Ok(None);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            quotes += part.iter().filter(|byte| **byte == b'"').count();
            push(text, part);
            let (read, is_last) = (part.len() + usize::from(end.is_some()), chunk.is_empty());
            self.input.consume(read);
            is_any = true;
            if end.is_some() || is_last {
                self.number += 1;
                return Ok(Some(quotes));
            }
        }
    }
}

/// Appends to a record, but not beyond the byte that makes it too long.
fn push(text: &mut Vec<u8>, part: &[u8]) {
    let free = (MAX_RECORD + 1).saturating_sub(text.len());
    text.extend_from_slice(&part[..part.len().min(free)]);
}

fn fitting(text: &[u8]) -> Result<(), String> {
    match text.len() > MAX_RECORD {
        true => Err("is longer than 256 KiB; check that each quote is closed".to_owned()),
        false => Ok(()),
    }
}

/// The parser of CSV records, as RFC 4180 describes them.
struct Csv {
    reader: csv_core::Reader,
    columns: Vec<String>,
    output: Vec<u8>,
}

impl Csv {
    fn new() -> Self {
        Self {
            reader: csv_core::Reader::new(),
            columns: Vec::new(),
            output: vec![0; MAX_RECORD],
        }
    }

    fn key(&mut self, record: &[u8]) -> Result<ImportKey, String> {
        let fields = self.fields(record)?;
        let (found, expected) = (fields.len(), self.columns.len());
        if found != expected {
            return Err(format!(
                "has {found} fields, but the header names {expected}"
            ));
        }
        // An empty field is absent.
        let values = self.columns.iter().map(String::as_str).zip(fields);
        let present = values.filter(|(_, text)| !text.is_empty());
        key_of(present.map(|(name, text)| (name, Value::String(text))))
    }

    fn fields(&mut self, record: &[u8]) -> Result<Vec<String>, String> {
        let mut ends = [0; MAX_FIELDS];
        self.reader.reset();
        let (mut read, mut written, mut count) = (0, 0, 0);
        loop {
            // An empty input ends the record.
            let (result, more, out, fields) = self.reader.read_record(
                &record[read..],
                &mut self.output[written..],
                &mut ends[count..],
            );
            (read, written, count) = (read + more, written + out, count + fields);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record | ReadRecordResult::End => break,
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err(format!("has more than {MAX_FIELDS} fields"));
                }
            }
        }
        let mut start = 0;
        let text = |end: &usize| {
            let field = &self.output[start..*end];
            start = *end;
            String::from_utf8(field.to_vec()).map_err(|_| "is not UTF-8".to_owned())
        };
        ends[..count].iter().map(text).collect()
    }
}

fn check_header(columns: &[String]) -> Result<(), String> {
    let known = COLUMNS.join(", ");
    for (place, column) in (1..).zip(columns) {
        if columns.iter().take(place - 1).any(|other| other == column) {
            return Err(format!("the header names a column twice, at place {place}"));
        }
        if COLUMNS.contains(&column.as_str()) {
            continue;
        }
        // Without a header, this is a field of a key.
        let in_name = |byte: u8| byte == b'_' || byte.is_ascii_lowercase();
        return Err(match column.len() <= 20 && column.bytes().all(in_name) {
            true => format!("the header names an unknown column, '{column}'; use {known}"),
            false => format!(
                "the first line must name the columns, and its place {place} holds no name; use {known}"
            ),
        });
    }
    Ok(())
}

fn json_key(text: &[u8]) -> Result<ImportKey, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8")?;
    // The parser's message may repeat a part of the text.
    let value = serde_json::from_str(text)
        .map_err(|error| format!("is not JSON: see its column {}", error.column()))?;
    let Value::Object(object) = value else {
        return Err("is not a JSON object".to_owned());
    };
    let present = object.iter().filter(|(_, value)| !value.is_null());
    key_of(present.map(|(name, value)| (name.as_str(), value.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00";

    /// The lines and their keys: account and slot, or what is wrong.
    fn read(file: &[u8]) -> Result<Vec<(u64, String)>, String> {
        let mut records = Records::new(Box::new(io::Cursor::new(file.to_vec())), None)?;
        let mut all = Vec::new();
        while let Some(record) = records.next()? {
            let shown = record
                .key
                .map(|key| format!("{}/{}", key.account_id, key.name));
            all.push((record.line, shown.unwrap_or_else(|reason| reason)));
        }
        Ok(all)
    }

    #[track_caller]
    fn assert_read(file: impl AsRef<[u8]>, expected: &[(u64, &str)]) {
        let found = read(file.as_ref()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(line, text)| (*line, text.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn csv_is_read_with_its_line_numbers() {
        assert_read(
            "account_id,name\n1,a\n\n2,\"b\"\n\"3\n3\",c\n4,\"d\"\"d\"",
            &[(2, "1/a"), (4, "2/b"), (5, "3\n3/c"), (7, "4/d\"d")],
        );
        let windows = "\u{feff}account_id,name\r\n1,a\r\n\r\n2,\"b\"\r\n3,\r\n";
        assert_read(windows, &[(2, "1/a"), (4, "2/b"), (5, "3/")]);
        assert_read("name,account_id\n", &[]);
    }

    #[test]
    fn json_lines_are_read_with_their_line_numbers() {
        let file = "\u{feff}{\"account_id\":\"1\"}\r\n\n{\"account_id\":\"2\",\"name\":null}\n\
                    {\"account_id\":\"\\\"\"}";
        assert_read(file, &[(1, "1/"), (3, "2/"), (4, "\"/")]);
    }

    #[test]
    fn a_bad_record_does_not_stop_the_others() {
        let long = "x".repeat(10 << 20);
        let unknown = format!("has an unknown field; use {}", COLUMNS.join(", "));
        for (start, lines) in [
            (
                "account_id,name\n",
                vec![
                    (b"1".to_vec(), "has 1 fields, but the header names 2"),
                    (b"1,a,b".to_vec(), "has 3 fields, but the header names 2"),
                    (vec![b','; 100], "has more than 64 fields"),
                    (b"\xff,a".to_vec(), "is not UTF-8"),
                    (b"\0,a".to_vec(), "\0/a"),
                    (
                        format!("{long},a").into_bytes(),
                        "is longer than 256 KiB; check that each quote is closed",
                    ),
                    (
                        format!("\"{}\n\"", "\n".repeat(2)).into_bytes(),
                        "has 1 fields, but the header names 2",
                    ),
                ],
            ),
            (
                "{}\n",
                vec![
                    (
                        b"{\"account_id\":}".to_vec(),
                        "is not JSON: see its column 15",
                    ),
                    (b"[]".to_vec(), "is not a JSON object"),
                    (
                        b"{\"metadata\":{\"a\":NaN}}".to_vec(),
                        "is not JSON: see its column 18",
                    ),
                    (b"{\"account_id\":1}".to_vec(), "account_id: must be a text"),
                    (b"{\"key\":\"x\"}".to_vec(), &unknown),
                    (b"\xff".to_vec(), "is not UTF-8"),
                    (
                        format!("{{\"account_id\":\"{long}\"}}").into_bytes(),
                        "is longer than 256 KiB; check that each quote is closed",
                    ),
                ],
            ),
        ] {
            for (line, expected) in lines {
                let good: &[u8] = match start.starts_with('{') {
                    true => b"{\"account_id\":\"7\",\"name\":\"z\"}",
                    false => b"7,z",
                };
                let file = [start.as_bytes(), &line, b"\n", good].concat();
                let found = read(&file).unwrap();
                let [.., (_, bad), (_, last)] = &found[..] else {
                    panic!("{found:?}")
                };
                assert_eq!((bad.as_str(), last.as_str()), (expected, "7/z"));
            }
        }
    }

    #[test]
    fn an_open_quote_ends_with_the_file_and_takes_little_memory() {
        let file = format!("account_id,name\n1,\"a\n{}", "2,b\n".repeat(1 << 20));
        let found = read(file.as_bytes()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("each quote is closed"), "{found:?}");
        let mut records = Records::new(Box::new(io::Cursor::new(file)), None).unwrap();
        records.next().unwrap();
        assert!(records.text.capacity() <= 2 * MAX_RECORD);
    }

    #[test]
    fn a_wrong_header_is_refused_without_showing_a_key() {
        for (file, message) in [
            ("", "the file is empty"),
            ("\n\n", "the file is empty"),
            ("\u{feff}", "the file is empty"),
            ("account_id,key\n", "unknown column, 'key'"),
            ("account_id,account_id\n", "a column twice, at place 2"),
            (&format!("42,{UUID}\n"), "its place 1 holds no name"),
            (&format!("account_id,{UUID}\n"), "its place 2 holds no name"),
            (
                "account_id,abcdefghijklmnopqrstuvwxyz\n",
                "its place 2 holds no name",
            ),
        ] {
            let error = read(file.as_bytes()).unwrap_err();
            assert!(error.contains(message), "{file}: {error}");
            assert!(!error.contains(UUID) && !error.contains("xyz"), "{error}");
        }
    }
}
