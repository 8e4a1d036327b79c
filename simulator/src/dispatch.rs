//! From a method name and bytes to an answer in bytes: JSON or protobuf, GET's query or a body.

use serde::Serialize;

use crate::instance::{self, CallError, Instance};
use crate::legacy;
use crate::signing;
use crate::wire::{
    EmitEventArgs, Empty, GetKeyArgs, ProtoError, RawQuoteArgs, Request, Response, TdxQuoteArgs, VerifyResponse,
};

/// Which of the agent's two services a socket offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// `dstack.sock`: `/<Method>`.
    Guest,
    /// `tappd.sock`: `/prpc/[Tappd.]<Method>`.
    Tappd,
}

impl Service {
    /// The method a path names, or `None` for a path with another number of segments.
    pub(crate) fn method(self, path: &str) -> Option<&str> {
        let method = match self {
            Self::Guest => path.strip_prefix('/')?,
            Self::Tappd => path.strip_prefix("/prpc/")?.trim_start_matches("Tappd."),
        };
        (!method.is_empty() && !method.contains('/')).then_some(method)
    }
}

/// How the arguments came and how the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Arguments in the query string, answer in JSON.
    Query,
    /// JSON both ways.
    Json,
    /// Protobuf both ways.
    Protobuf,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Query | Self::Json => "application/json",
            Self::Protobuf => "application/octet-stream",
        }
    }

    fn decode<T: Request>(self, bytes: &[u8]) -> Result<T, CallError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CallError::Other(format!("failed to read the arguments as {what}: {error}"))
        };
        match self {
            Self::Query | Self::Json if bytes.is_empty() => Ok(T::default()),
            Self::Query => serde_qs::from_bytes(bytes).map_err(|error| failed("a query string", &error)),
            Self::Json => serde_json::from_slice(bytes).map_err(|error| failed("JSON", &error)),
            Self::Protobuf => T::decode(bytes).map_err(|error| failed("protobuf", &error)),
        }
    }

    fn encode<T: Response>(self, message: &T) -> Result<Vec<u8>, CallError> {
        match self {
            Self::Query | Self::Json => {
                ascii_json(message).map_err(|error| CallError::Other(format!("failed to write JSON: {error}")))
            }
            Self::Protobuf => Ok(message.encode_to_vec()),
        }
    }

    /// The body of a failed call, status 400: exactly dstack's layout.
    pub(crate) fn error(self, text: &str) -> Vec<u8> {
        match self {
            Self::Query | Self::Json => {
                let text = ascii_json(text).unwrap_or_else(|_| b"\"\"".to_vec());
                [b"{\n  \"error\": ", text.as_slice(), b"\n}"].concat()
            }
            Self::Protobuf => prost::Message::encode_to_vec(&ProtoError { message: text.to_owned() }),
        }
    }
}

/// Answers one call.
///
/// # Errors
/// With the text for the client.
pub(crate) fn call(
    instance: &Instance,
    service: Service,
    method: &str,
    format: Format,
    arguments: &[u8],
) -> Result<Vec<u8>, CallError> {
    let i = instance;
    let go = Go { format, arguments };
    match (service, method) {
        // Methods without arguments do not look at the body.
        (_, "Info") => format.encode(&i.info()?),
        (_, "Version") => format.encode(&instance::version()),
        (Service::Guest, "GetKey") => {
            go.with(|args: GetKeyArgs| i.get_key(args.path.as_bytes(), &args.purpose, &args.algorithm))
        }
        (Service::Guest, "GetTlsKey") => go.with(|args| i.get_tls_key(&args)),
        (Service::Guest, "GetQuote") => go.with(|args: RawQuoteArgs| i.get_quote(&args.report_data)),
        (Service::Guest, "Attest") => go.with(|args: RawQuoteArgs| i.attest(&args.report_data)),
        (Service::Guest, "EmitEvent") => {
            go.with(|args: EmitEventArgs| i.emit_event(&args.event, &args.payload).map(|()| Empty {}))
        }
        (Service::Guest, "Sign") => go.with(|args| signing::sign(i, &args)),
        (Service::Guest, "Verify") => go.with(|args| signing::verify(&args).map(|valid| VerifyResponse { valid })),
        (Service::Tappd, "DeriveKey") => go.with(|args| legacy::derive_key(i, &args)),
        (Service::Tappd, "DeriveK256Key") => go.with(|args| legacy::derive_k256_key(i, &args)),
        (Service::Tappd, "TdxQuote") => go.with(|args| legacy::tdx_quote(i, &args)),
        (Service::Tappd, "RawQuote") => go.with(|args: RawQuoteArgs| {
            let args =
                TdxQuoteArgs { report_data: args.report_data, hash_algorithm: "raw".to_owned(), prefix: String::new() };
            legacy::tdx_quote(i, &args)
        }),
        (Service::Guest | Service::Tappd, unknown) => Err(CallError::Method(unknown.to_owned())),
    }
}

struct Go<'a> {
    format: Format,
    arguments: &'a [u8],
}

impl Go<'_> {
    fn with<A: Request, R: Response>(
        &self,
        method: impl FnOnce(A) -> Result<R, CallError>,
    ) -> Result<Vec<u8>, CallError> {
        self.format.encode(&method(self.format.decode(self.arguments)?)?)
    }
}

/// Compact JSON in pure ASCII: the JS SDK counts characters where HTTP counts bytes.
fn ascii_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Ascii))?;
    Ok(out)
}

struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, text: &str) -> std::io::Result<()> {
        let mut units = [0; 2];
        for c in text.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_ascii() {
        assert_eq!(ascii_json("ä\n\"😀\u{7f}").unwrap(), b"\"\\u00e4\\n\\\"\\ud83d\\ude00\x7f\"");
    }

    #[test]
    fn error_body_is_dstacks_layout() {
        let body = Format::Json.error("Report data is too long");
        assert_eq!(body, b"{\n  \"error\": \"Report data is too long\"\n}");
        assert_eq!(body.len(), 40);
    }

    #[test]
    fn paths_name_methods() {
        assert_eq!(Service::Guest.method("/GetKey"), Some("GetKey"));
        assert_eq!(Service::Tappd.method("/prpc/Tappd.DeriveKey"), Some("DeriveKey"));
        assert_eq!(Service::Tappd.method("/prpc/DeriveKey"), Some("DeriveKey"));
        for deeper in ["/", "/a/b", "GetKey", "/prpc/GetKey"] {
            assert_eq!(Service::Guest.method(deeper), None, "{deeper}");
        }
        assert_eq!(Service::Tappd.method("/DeriveKey"), None);
    }
}
