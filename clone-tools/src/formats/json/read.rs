use std::fmt;
use std::io::{self, Read};

use clone_core::metadata::ir::Header;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use crate::common::text_form::TextForm;
use crate::formats::document::{
    Claims, Document, DocumentError, Fault, RunChecker, check_start, parse_uuid,
};
use crate::formats::text_reader::{Position, Source};

/// Reads a whole document. Its keys may come in any order; `hydrated` may be missing.
///
/// # Errors
/// [`DocumentError`], for the first fault in the document.
pub fn read(from: impl Read) -> Result<Document, DocumentError> {
    let mut source = Source::new(from);
    let first = match source.peek(64) {
        Ok(start) => check_start(start, TextForm::Json),
        Err(error) => Err(Fault::Read(error)),
    };
    first.map_err(|fault| DocumentError { place: Position::START, fault })?;

    let mut runs = RunChecker::default();
    let mut tokens = Tokens { source, in_string: false, escaped: false };
    let mut json = serde_json::Deserializer::from_reader(&mut tokens);
    let header = TopLevel { runs: &mut runs }
        .deserialize(&mut json)
        .and_then(|header| json.end().map(|()| header));
    match header {
        Ok(header) => Ok(Document { header, runs: runs.into_spool() }),
        Err(error) => Err(document_error(error, tokens.source.place())),
    }
}

/// A reader that marks the start of each token in a source, so that its length can be limited.
struct Tokens<R> {
    source: Source<R>,
    in_string: bool,
    escaped: bool,
}

impl<R: Read> Read for Tokens<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(into)?;
        for &byte in &into[..read] {
            let quote = byte == b'"' && !self.escaped;
            self.in_string ^= quote;
            self.escaped = self.in_string && byte == b'\\' && !self.escaped;
            if quote || (!self.in_string && b" \t\r\n,:[]{}".contains(&byte)) {
                self.source.begin_token();
            }
        }
        Ok(read)
    }
}

fn document_error(error: serde_json::Error, reached: Position) -> DocumentError {
    let (line, column) = (error.line() as u64, error.column() as u64);
    if error.classify() == Category::Io {
        return DocumentError { place: reached, fault: Fault::reading(error.into()) };
    }
    // All formats report positions in the same way.
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    let place = if line == 0 { reached } else { Position { line, column: column.max(1) } };
    DocumentError { place, fault: Fault::Syntax(text.to_owned()) }
}

struct TopLevel<'a> {
    runs: &'a mut RunChecker,
}

/// The values of all keys except the runs themselves.
#[derive(Default)]
struct Keys {
    uuid: Option<String>,
    version: Option<u64>,
    region_size: Option<u64>,
    target_size: Option<u64>,
    nr_regions: Option<u64>,
    hydrated: Option<u64>,
    runs: Option<()>,
}

impl Keys {
    const NAMES: [&str; 7] =
        ["uuid", "version", "region_size", "target_size", "nr_regions", "hydrated", "runs"];

    /// Returns the sizes, if all of them have been read.
    fn claims(&self) -> Result<Claims, Fault> {
        let uuid = parse_uuid(required("uuid", self.uuid.as_deref())?)?;
        Ok(Claims {
            uuid,
            version: required("version", self.version)?,
            region_size: required("region_size", self.region_size)?,
            target_size: required("target_size", self.target_size)?,
            nr_regions: required("nr_regions", self.nr_regions)?,
        })
    }
}

fn required<T>(name: &'static str, value: Option<T>) -> Result<T, Fault> {
    value.ok_or(Fault::Missing { element: "the document", name })
}

/// Reads the value of a key that may be given only once.
fn once<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    name: &'static str,
    into: &mut Option<T>,
) -> Result<(), A::Error> {
    if into.replace(map.next_value()?).is_some() {
        return Err(A::Error::custom(Fault::Duplicate { name }));
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for TopLevel<'_> {
    type Value = Header;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object as clone_dump --format json writes it")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut keys = Keys::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "uuid" => once(&mut map, "uuid", &mut keys.uuid)?,
                "version" => once(&mut map, "version", &mut keys.version)?,
                "region_size" => once(&mut map, "region_size", &mut keys.region_size)?,
                "target_size" => once(&mut map, "target_size", &mut keys.target_size)?,
                "nr_regions" => once(&mut map, "nr_regions", &mut keys.nr_regions)?,
                "hydrated" => once(&mut map, "hydrated", &mut keys.hydrated)?,
                "runs" => {
                    if keys.runs.replace(()).is_some() {
                        return Err(A::Error::custom(Fault::Duplicate { name: "runs" }));
                    }
                    // Sizes that come first bound each run as it is read; otherwise all are checked
                    // at the end.
                    if let Ok(claims) = keys.claims() {
                        let header = claims.header().map_err(A::Error::custom)?;
                        let nr_regions = header.geometry.nr_regions();
                        self.runs.bound(nr_regions).map_err(A::Error::custom)?;
                    }
                    map.next_value_seed(RunList { runs: self.runs })?;
                }
                _ => return Err(A::Error::unknown_field(&key, &Keys::NAMES)),
            }
        }
        self.finish(&keys).map_err(A::Error::custom)
    }
}

impl TopLevel<'_> {
    fn finish(self, keys: &Keys) -> Result<Header, Fault> {
        let header = keys.claims()?.header()?;
        required("runs", keys.runs)?;
        self.runs.bound(header.geometry.nr_regions())?;
        match keys.hydrated {
            Some(claimed) if claimed != self.runs.hydrated() => {
                Err(Fault::Hydrated { claimed, actual: self.runs.hydrated() })
            }
            _ => Ok(header),
        }
    }
}

struct RunList<'a> {
    runs: &'a mut RunChecker,
}

impl<'de> DeserializeSeed<'de> for RunList<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RunList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of runs, each written [begin, end]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some((begin, end)) = list.next_element::<(u64, u64)>()? {
            // A run that ends before it begins counts as empty.
            let length = end.saturating_sub(begin);
            self.runs.push(begin, length).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::read;

    const HEAD: &str =
        r#"{"uuid":"","version":1,"region_size":8,"target_size":795,"nr_regions":100,"#;

    fn runs(json: &str) -> Result<Vec<(u64, u64)>, String> {
        let document = read(json.as_bytes()).map_err(|error| error.to_string())?;
        let runs = document.runs.into_runs().unwrap().map(Result::unwrap);
        Ok(runs.map(|run| (run.start, run.end)).collect())
    }

    fn refused(json: &str, reason: &str) {
        match runs(json) {
            Ok(runs) => panic!("{json}: accepted with runs {runs:?}"),
            Err(error) => assert!(error.contains(reason), "{json}: {error}"),
        }
    }

    #[test]
    fn keys_come_in_any_order() {
        let runs_of = |json: &str| runs(json).unwrap();
        assert_eq!(runs_of(&format!(r#"{HEAD}"hydrated":2,"runs":[[1,2],[99,100]]}}"#)).len(), 2);
        assert_eq!(runs_of(&format!(r#"{HEAD}"runs":[]}}"#)), []);
        let last = HEAD.trim_start_matches('{').trim_end_matches(',');
        assert_eq!(runs_of(&format!(r#" {{"runs" : [ [ 1 , 2 ] ],{last}}}"#)), [(1, 2)]);
        refused(&format!(r#"{{"runs":[[100,101]],{last}}}"#), "regions 100..101 reach past");
    }

    #[test]
    fn whatever_contradicts_itself_is_refused() {
        refused(&format!("{HEAD}\n\"runs\":[[1,2],\n[1,3]]}}"), "3:6: regions 1..3 overlap 1..2");
        refused(&format!(r#"{HEAD}"runs":[[2,1]]}}"#), "no regions");
        refused(&format!(r#"{HEAD}"runs":[[1,101]]}}"#), "reach past");
        refused(&format!(r#"{HEAD}"runs":[[1,18446744073709551616]]}}"#), "expected u64");
        refused(&format!(r#"{HEAD}"runs":[[1,2,3]]}}"#), "trailing");
        refused(&format!(r#"{HEAD}"runs":[[1]]}}"#), "invalid length 1");
        refused(&format!(r#"{HEAD}"runs":[[-1,2]]}}"#), "expected u64");
        refused(&format!(r#"{HEAD}"hydrated":3,"runs":[[1,2]]}}"#), "hydrated is 3");
        refused(&format!(r#"{HEAD}"runs":[],"runs":[]}}"#), "given twice");
        refused(&format!(r#"{HEAD}"version":1,"runs":[]}}"#), "\"version\" is given twice");
        refused(&format!(r#"{HEAD}"x":1}}"#), "unknown field `x`");
        refused(&format!(r#"{HEAD}"hydrated":0}}"#), "lacks \"runs\"");
        refused(&HEAD.replace("100", "99").replace(",\"nr", ",\"runs\":[],\"nr"), "EOF");
        refused(&format!(r#"{HEAD}"runs":[]}} x"#), "trailing characters");
        refused(&format!(r#"{HEAD}"runs":[]"#), "EOF");
        refused("", "empty");
        refused("\0", "binary");
        refused("[]", "expected an object");
    }

    #[test]
    fn nothing_that_goes_on_for_ever_is_kept() {
        for start in ["{\"", "{\"uuid\":\"\\\"", "{\"uuid\":\","] {
            let endless = start.as_bytes().chain(std::io::repeat(b'1'));
            let error = read(endless).unwrap_err().to_string();
            assert!(error.contains("without a break") || error.contains("expected"), "{error}");
        }
    }
}
