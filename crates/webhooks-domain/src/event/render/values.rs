//! Rendering what stands inside `event` and `workflowStep`.

use std::net::IpAddr;

use super::super::deny::is_denied;
use super::super::path::Path;
use super::super::profile::Profile;
use super::super::scan::{Kind, ScanError};
use super::super::schema::{self, Member, Shape};
use super::super::sink::Sink;
use super::{DropReason, Renderer};

impl Renderer<'_> {
    /// An object with known members: those that the profile keeps, in their own order.
    pub(super) fn object(
        &mut self,
        members: &'static [Member],
        path: &Path<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), ScanError> {
        self.scanner.enter()?;
        sink.span(self.scanner.position() - 1, self.scanner.position());
        let mut comma = Comma::default();
        let mut hint = 0;
        let mut more = self.scanner.first(b'}')?;
        while more {
            let token = self.scanner.name()?;
            let colon = self.scanner.position() - 1;
            let name = self.scanner.decoded(token);
            let here = path.member(&name);
            match schema::find(members, &name, hint) {
                Some(index) => {
                    hint = index + 1;
                    let member = &members[index];
                    let kind = self.scanner.kind()?;
                    if !member.kept.contains(self.profile) {
                        self.scanner.skip()?;
                    } else if let Some(value) = self.prepare(member, kind)? {
                        comma.write(sink);
                        sink.span(token.start, token.end);
                        sink.span(colon, colon + 1);
                        self.value(value, kind, &here, sink)?;
                    } else {
                        self.count_dropped(&here, DropReason::WrongType);
                    }
                }
                None => self.drop_next(&here, DropReason::UnknownPath)?,
            }
            more = self.scanner.next(b'}')?;
            comma.at = self.scanner.position() - 1;
        }
        sink.span(self.scanner.position() - 1, self.scanner.position());
        Ok(())
    }

    /// How the value that comes next is to be written; `None` when it does not fit its place, in
    /// which case it has been consumed.
    fn prepare(&mut self, member: &Member, kind: Kind) -> Result<Option<Value>, ScanError> {
        let value = match (member.shape, kind) {
            (_, Kind::Null) => Some(Value::Verbatim),
            (Shape::Scalar(types) | Shape::Open(types), kind) if types.admits(kind) => {
                Some(Value::Verbatim)
            }
            (Shape::Object(members), Kind::Object) => Some(Value::Object(members)),
            (Shape::Payload, Kind::Object) => Some(Value::Filtered),
            (Shape::List(types), Kind::Array) => Some(Value::List(types)),
            (Shape::Address, Kind::String) if self.profile == Profile::Strict => {
                let token = self.scanner.string()?;
                return Ok(truncated_address(&self.scanner.decoded(token)).map(Value::Address));
            }
            (Shape::Address, Kind::String) => Some(Value::Verbatim),
            _ => None,
        };
        if value.is_none() {
            self.scanner.skip()?;
        }
        Ok(value)
    }

    fn value(
        &mut self,
        value: Value,
        kind: Kind,
        path: &Path<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), ScanError> {
        match value {
            Value::Object(members) => self.object(members, path, sink),
            Value::List(types) => self.list(types, path, sink),
            Value::Filtered => self.filtered(path, sink),
            Value::Address(address) => {
                sink.literal(format!("\"{address}\"").as_bytes());
                Ok(())
            }
            Value::Verbatim => {
                let start = self.scanner.position();
                match kind {
                    Kind::Object | Kind::Array => drop(self.scanner.skip()?),
                    scalar => self.scanner.scalar(scalar)?,
                }
                sink.span(start, self.scanner.position());
                Ok(())
            }
        }
    }

    /// An array whose elements are of known types.
    fn list(
        &mut self,
        types: schema::Types,
        path: &Path<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), ScanError> {
        self.scanner.enter()?;
        sink.span(self.scanner.position() - 1, self.scanner.position());
        let here = path.member("[]");
        let mut comma = Comma::default();
        let mut more = self.scanner.first(b']')?;
        while more {
            let kind = self.scanner.kind()?;
            if types.admits(kind) {
                comma.write(sink);
                self.filtered(&here, sink)?;
            } else {
                self.drop_next(&here, DropReason::WrongType)?;
            }
            more = self.scanner.next(b']')?;
            comma.at = self.scanner.position() - 1;
        }
        sink.span(self.scanner.position() - 1, self.scanner.position());
        Ok(())
    }

    /// A subtree that passes byte for byte, except members with a denied name.
    fn filtered(&mut self, path: &Path<'_>, sink: &mut Sink<'_>) -> Result<(), ScanError> {
        let mut copied = self.scanner.position();
        self.cut_denied(&mut copied, path, sink)?;
        sink.span(copied, self.scanner.position());
        Ok(())
    }

    /// Walks one value and cuts denied members out: everything before a cut is copied, and
    /// `copied` moves behind it. Each cut takes one comma along, so what is left is JSON.
    fn cut_denied(
        &mut self,
        copied: &mut usize,
        path: &Path<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), ScanError> {
        match self.scanner.kind()? {
            Kind::Object => {
                self.scanner.enter()?;
                let mut kept_any = false;
                let mut start = self.scanner.position();
                let mut more = self.scanner.first(b'}')?;
                while more {
                    let token = self.scanner.name()?;
                    let name = self.scanner.decoded(token);
                    let here = path.member(&name);
                    if is_denied(&name) {
                        self.drop_next(&here, DropReason::DeniedName)?;
                        let end = self.scanner.position();
                        more = self.scanner.next(b'}')?;
                        let cut = match (kept_any, more) {
                            (true, _) => (start - 1, end),
                            (false, true) => (start, self.scanner.position()),
                            (false, false) => (start, end),
                        };
                        sink.span(*copied, cut.0);
                        *copied = cut.1;
                    } else {
                        kept_any = true;
                        self.cut_denied(copied, &here, sink)?;
                        more = self.scanner.next(b'}')?;
                    }
                    start = self.scanner.position();
                }
                Ok(())
            }
            Kind::Array => {
                self.scanner.enter()?;
                let here = path.member("[]");
                let mut more = self.scanner.first(b']')?;
                while more {
                    self.cut_denied(copied, &here, sink)?;
                    more = self.scanner.next(b']')?;
                }
                Ok(())
            }
            scalar => self.scanner.scalar(scalar),
        }
    }
}

/// How one value is written.
enum Value {
    /// As it came.
    Verbatim,
    /// Member by member.
    Object(&'static [Member]),
    /// Element by element.
    List(schema::Types),
    /// As it came, without denied names.
    Filtered,
    /// An address that has been read and truncated.
    Address(IpAddr),
}

/// The comma before a member: taken from the input where it stands, and only between members
/// that are kept.
#[derive(Default)]
struct Comma {
    at: usize,
    needed: bool,
}

impl Comma {
    fn write(&mut self, sink: &mut Sink<'_>) {
        if self.needed {
            sink.span(self.at, self.at + 1);
        }
        self.needed = true;
    }
}

/// The network of an address: /24 for IPv4 (also when mapped into IPv6), /48 for IPv6.
fn truncated_address(text: &str) -> Option<IpAddr> {
    let truncated = match text.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    };
    Some(truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_cut_to_their_network() {
        let table = [
            ("203.0.113.77", Some("203.0.113.0")),
            ("::ffff:203.0.113.77", Some("203.0.113.0")),
            (
                "2001:db8:85a3:8d3:1319:8a2e:370:7348",
                Some("2001:db8:85a3::"),
            ),
            ("::1", Some("::")),
            ("fe80::1%eth0", None),
            ("203.0.113", None),
            ("203.0.113.77:80", None),
            ("localhost", None),
            ("", None),
        ];
        for (text, expected) in table {
            let truncated = truncated_address(text).map(|address| address.to_string());
            assert_eq!(truncated.as_deref(), expected, "{text}");
        }
    }
}
