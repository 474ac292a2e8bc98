use std::borrow::Cow;
use std::io::{self, Read};

use clone_core::metadata::ir::Header;
use quick_xml::events::{BytesDecl, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::common::text_form::TextForm;
use crate::formats::document::{
    Claims, Document, DocumentError, Fault, RunChecker, check_start, excerpt, parse_uuid,
};
use crate::formats::text_reader::Source;

/// Reads a whole document. It rejects everything that `clone_dump` does not write, except spacing
/// and comments.
///
/// # Errors
/// [`DocumentError`], for the first fault in the document.
pub fn read(from: impl Read) -> Result<Document, DocumentError> {
    let mut source = Source::new(from);
    let first = match source.peek(64) {
        Ok(start) => check_start(start, TextForm::Xml),
        Err(error) => Err(Fault::Read(error)),
    };
    first.map_err(|fault| DocumentError { place: source.token(), fault })?;

    let mut reader = Reader::from_reader(source);
    let mut buffer = Vec::new();
    let mut parser = Parser { state: State::Prolog { begun: false }, runs: RunChecker::default() };
    loop {
        reader.get_mut().begin_token();
        buffer.clear();
        let step = match reader.read_event_into(&mut buffer) {
            Ok(event) => parser.step(event),
            Err(error) => Err(syntax(error)),
        };
        match step {
            Ok(None) => {}
            Ok(Some(header)) => return Ok(Document { header, runs: parser.runs.into_spool() }),
            Err(fault) => return Err(DocumentError { place: reader.get_ref().token(), fault }),
        }
    }
}

/// The position of the parser in the structure of the document.
#[derive(Clone, Copy)]
enum State {
    /// Before the superblock; `begun` is true after anything other than an `<?xml ...?>`.
    Prolog { begun: bool },
    /// Between the runs.
    Superblock(Header),
    /// In a run that has separate start and end tags.
    Run(Header),
    /// After the superblock.
    Epilog(Header),
}

impl State {
    fn in_words(self) -> &'static str {
        match self {
            Self::Prolog { .. } => "before <superblock>",
            Self::Superblock(_) => "in <superblock>",
            Self::Run(_) => "in <hydrated>",
            Self::Epilog(_) => "after </superblock>",
        }
    }
}

struct Parser {
    state: State,
    runs: RunChecker,
}

impl Parser {
    /// Processes the next event. Returns the header at the end of the document.
    fn step(&mut self, event: Event<'_>) -> Result<Option<Header>, Fault> {
        let state = self.state;
        if let State::Prolog { begun } = &mut self.state {
            *begun = true;
        }
        match (event, state) {
            (Event::Decl(declaration), State::Prolog { begun: false }) => {
                check_encoding(&declaration)?;
            }
            (Event::Comment(_), _) => {}
            (Event::Text(text), _) if text.bytes().all(|byte| byte.is_ascii_whitespace()) => {}
            (Event::Start(tag), State::Prolog { .. }) => {
                self.state = State::Superblock(self.superblock(&tag)?);
            }
            (Event::Empty(tag), State::Prolog { .. }) => {
                self.state = State::Epilog(self.superblock(&tag)?);
            }
            (Event::Start(tag), State::Superblock(header)) => {
                self.hydrated(&tag)?;
                self.state = State::Run(header);
            }
            (Event::Empty(tag), State::Superblock(_)) => self.hydrated(&tag)?,
            // quick-xml checks that the names match.
            (Event::End(_), State::Run(header)) => self.state = State::Superblock(header),
            (Event::End(_), State::Superblock(header)) => self.state = State::Epilog(header),
            (Event::Eof, State::Epilog(header)) => return Ok(Some(header)),
            (Event::Eof, State::Prolog { .. }) => {
                return Err(Fault::Missing { element: "the document", name: "<superblock>" });
            }
            (Event::Eof, State::Superblock(_)) => return Err(Fault::Truncated("superblock")),
            (Event::Eof, State::Run(_)) => return Err(Fault::Truncated("hydrated")),
            (event, state) => return Err(unexpected(&event, state)),
        }
        Ok(None)
    }

    fn superblock(&mut self, tag: &BytesStart<'_>) -> Result<Header, Fault> {
        if tag.name().as_ref() != "superblock" {
            return Err(unexpected(&Event::Start(tag.borrow()), self.state));
        }
        let names = ["uuid", "version", "region_size", "target_size", "nr_regions"];
        let values = attributes("<superblock>", tag, names)?;
        let [uuid, numbers @ ..] = &values;
        let [version, region_size, target_size, nr_regions] = numbers;
        let claims = Claims {
            uuid: parse_uuid(uuid)?,
            version: number("version", version)?,
            region_size: number("region_size", region_size)?,
            target_size: number("target_size", target_size)?,
            nr_regions: number("nr_regions", nr_regions)?,
        };
        let header = claims.header()?;
        self.runs.bound(header.geometry.nr_regions())?;
        Ok(header)
    }

    fn hydrated(&mut self, tag: &BytesStart<'_>) -> Result<(), Fault> {
        if tag.name().as_ref() != "hydrated" {
            return Err(unexpected(&Event::Start(tag.borrow()), self.state));
        }
        let [begin, length] = attributes("<hydrated>", tag, ["begin", "length"])?;
        self.runs.push(number("begin", &begin)?, number("length", &length)?)
    }
}

/// Returns the values of all attributes in `names`, in that order. All are required, and no others
/// are allowed.
fn attributes<'a, const N: usize>(
    element: &'static str,
    tag: &'a BytesStart<'_>,
    names: [&'static str; N],
) -> Result<[Cow<'a, str>; N], Fault> {
    let mut values = [const { None }; N];
    // Duplicates are detected below, where the message can name them.
    for attribute in tag.attributes().with_checks(false) {
        let attribute = attribute.map_err(|error| syntax(error.into()))?;
        let name = attribute.key.as_ref();
        let Some(index) = names.iter().position(|&known| known == name) else {
            let (name, known) = (excerpt(name), names.join(", "));
            return Err(Fault::UnknownName { element, name, known });
        };
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(syntax)?;
        if values[index].replace(value).is_some() {
            return Err(Fault::Duplicate { name: names[index] });
        }
    }
    match values.iter().position(Option::is_none) {
        Some(missing) => Err(Fault::Missing { element, name: names[missing] }),
        None => Ok(values.map(Option::unwrap_or_default)),
    }
}

fn number(name: &'static str, text: &str) -> Result<u64, Fault> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::NotANumber { name, text: excerpt(text) });
    }
    text.parse().map_err(|_| Fault::TooLarge { name, text: excerpt(text) })
}

fn check_encoding(declaration: &BytesDecl<'_>) -> Result<(), Fault> {
    let Some(encoding) = declaration.encoding() else {
        return Ok(());
    };
    let encoding = encoding.map_err(|error| syntax(error.into()))?;
    if ["utf-8", "us-ascii"].iter().any(|known| encoding.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Fault::Syntax(format!("encoding {:?}: only UTF-8 is read", excerpt(&encoding))))
}

fn unexpected(event: &Event<'_>, state: State) -> Fault {
    let what = match event {
        Event::Start(tag) | Event::Empty(tag) => {
            format!("element <{}>", excerpt(tag.name().as_ref()))
        }
        Event::End(tag) => format!("</{}>", excerpt(tag.name().as_ref())),
        Event::Text(text) => format!("text {:?}", excerpt(text.trim())),
        Event::GeneralRef(reference) => format!("text \"&{};\"", excerpt(reference)),
        Event::CData(_) => "CDATA section".to_owned(),
        Event::DocType(_) => "DOCTYPE".to_owned(),
        Event::Decl(_) => "<?xml ...?>, which comes first or not at all,".to_owned(),
        Event::PI(_) => "processing instruction".to_owned(),
        Event::Comment(_) | Event::Eof => "end".to_owned(),
    };
    Fault::Unexpected { what, place: state.in_words() }
}

fn syntax(error: quick_xml::Error) -> Fault {
    match error {
        quick_xml::Error::Io(error) => match error.get_ref().and_then(|e| e.downcast_ref()) {
            Some(&too_long) => Fault::TokenTooLong(too_long),
            // The error is in an Arc, and an io::Error cannot be cloned.
            None => Fault::Read(io::Error::new(error.kind(), error)),
        },
        error => Fault::Syntax(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    const HEAD: &str =
        r#"<superblock uuid="" version="1" region_size="8" target_size="795" nr_regions="100">"#;

    /// Returns the runs of a document, or its fault.
    fn runs(xml: &str) -> Result<Vec<(u64, u64)>, String> {
        let document = read(xml.as_bytes()).map_err(|error| error.to_string())?;
        let runs = document.runs.into_runs().unwrap().map(Result::unwrap);
        Ok(runs.map(|run| (run.start, run.end)).collect())
    }

    fn refused(xml: &str, reason: &str) {
        match runs(xml) {
            Ok(runs) => panic!("{xml}: accepted with runs {runs:?}"),
            Err(error) => assert!(error.contains(reason), "{xml}: {error}"),
        }
    }

    #[test]
    fn whatever_means_the_same_is_accepted() {
        let good = |inside: &str| runs(&format!("{HEAD}{inside}</superblock>"));
        assert_eq!(good(""), Ok(vec![]));
        assert_eq!(good("<hydrated begin='0' length='100'/>"), Ok(vec![(0, 100)]));
        assert_eq!(good("<hydrated length=\"1\"\n begin=\"7\" />"), Ok(vec![(7, 8)]));
        assert_eq!(good("<hydrated begin='7' length='1'> </hydrated >"), Ok(vec![(7, 8)]));
        assert_eq!(good("<hydrated begin='&#49;0' length='1'/>"), Ok(vec![(10, 11)]));
        let touching = "<hydrated begin='1' length='1'/><!-- --><hydrated begin='2' length='1'/>";
        assert_eq!(good(touching), Ok(vec![(1, 2), (2, 3)]));
        assert_eq!(runs(&HEAD.replace('>', "/>")), Ok(vec![]));
        let whole = format!("\u{feff}<?xml version='1.0' encoding='UTF-8'?>\n<!-- a -->\n{HEAD}");
        assert_eq!(runs(&format!("{whole}</superblock>\n<!-- b -->\n")), Ok(vec![]));
    }

    #[test]
    fn the_superblock_has_to_make_sense() {
        let with = |from: &str, to: &str| HEAD.replace(from, to) + "</superblock>";
        refused(&with(" version=\"1\"", ""), "1:1: <superblock> lacks \"version\"");
        refused(&with("version=\"1\"", "version=\"2\""), "version 2");
        refused(&with("version", "verzion"), "no \"verzion\"");
        refused(&with("\"1\"", "\"1\" version=\"1\""), "given twice");
        refused(&with("\"8\"", "\"7\""), "power of two");
        refused(&with("\"8\"", "\"-8\""), "not a whole number");
        refused(&with("\"8\"", "\"+8\""), "not a whole number");
        refused(&with("\"8\"", "\"0x8\""), "not a whole number");
        refused(&with("\"8\"", "\"\""), "not a whole number");
        refused(&with("\"8\"", "\"99999999999999999999\""), "more than can be counted");
        refused(&with("\"100\"", "\"99\""), "nr_regions is 99, but the region and");
        refused(&with("\"795\"", "\"0\""), "target size of 0");
        refused(&with("\"795\"", "\"18446744073709551615\""), "use a larger region size");
        refused(&with("uuid=\"\"", "uuid=\"12\""), "32 hex digits");
        refused(&with("uuid=\"\"", "uuid=\"&bad;\""), "bad");
        refused(&with("<superblock", "<superblok"), "unexpected element <superblok>");
    }

    #[test]
    fn a_bad_run_is_refused_where_it_begins() {
        let bad = |inside: &str, reason: &str| {
            refused(&format!("{HEAD}\n  {inside}</superblock>"), reason);
        };
        bad("<hydrated begin='1'/>", "2:3: <hydrated> lacks \"length\"");
        bad("<hydrated begin='1' length='0'/>", "2:3: a run that begins at region 1");
        bad("<hydrated begin='1' length='100'/>", "2:3: regions 1..101 reach past");
        bad("<hydrated begin='18446744073709551615' length='18446744073709551615'/>", "reach past");
        let run = "<hydrated begin='5' length='2'/>\n";
        bad(&format!("{run}<hydrated begin='6' length='2'/>"), "3:1: regions 6..8 overlap 5..7");
        bad(
            &format!("{run}<hydrated begin='1' length='2'/>"),
            "3:1: regions 1..3 are out of order",
        );
        bad(&format!("{run}{run}"), "overlap");
        bad("<hydrated begin='1' length='1' x='1'/>", "no \"x\"");
        bad("<hydrated begin='1' length='1' x/>", "attribute");
        bad("<hydrated begin=1 length=1/>", "enclosed in");
        bad("<run begin='1' length='1'/>", "2:3: unexpected element <run> in <superblock>");
        bad(
            "<hydrated begin='1' length='1'><a/></hydrated>",
            "unexpected element <a> in <hydrated>",
        );
        bad("<hydrated begin='1' length='1'>x</hydrated>", "unexpected text \"x\"");
    }

    #[test]
    fn what_does_not_belong_there_is_refused() {
        refused("", "1:1: the input is empty");
        refused(" \n", "lacks \"<superblock>\"");
        refused("\0\0\0\0", "binary metadata, not XML");
        refused("<!DOCTYPE a>", "unexpected DOCTYPE");
        refused("<?xml version='1.0' encoding='UTF-16'?>", "only UTF-8");
        refused("\n<?xml version='1.0'?>", "2:1: unexpected <?xml");
        refused("<?php?>", "processing instruction");
        refused(HEAD, "inside <superblock>: it has been cut off");
        refused(&format!("{HEAD}<hydrated begin='1' le"), "1:84: syntax error");
        refused(&format!("{HEAD}<hydrated begin='1' length='1'>"), "inside <hydrated>");
        refused(&format!("{HEAD}</superblock>{HEAD}"), "unexpected element <superblock> after");
        refused(&format!("{HEAD}</superblock>é x"), "1:97: unexpected text \"é x\" after");
        refused(&format!("{HEAD}</superblock></superblock>"), "does not match any open tag");
        refused(&format!("{HEAD}</hydrated>"), "expected `</superblock>`");
        refused(&format!("{HEAD}<![CDATA[x]]>"), "CDATA");
        refused(&format!("{HEAD}&lt;"), "unexpected text \"&lt;\"");
        assert!(read(&b"<a \xff>"[..]).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn nothing_that_goes_on_for_ever_is_kept() {
        use std::io::Read;
        for start in ["", "<", "<!--", "<a b=\"", HEAD] {
            let endless = start.as_bytes().chain(std::io::repeat(b' '));
            let error = read(endless).unwrap_err().to_string();
            assert!(error.contains("without a break"), "{start}: {error}");
        }
    }
}
