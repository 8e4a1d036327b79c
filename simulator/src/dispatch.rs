//! From a method name and bytes to an answer in bytes: JSON or protobuf, GET's query or a body.

use serde::Serialize;

use crate::guest_api::GuestApi;
use crate::instance::{CallError, Instance};
use crate::wire::{
    EmitEventArgs, Empty, GetKeyArgs, ProtoError, RawQuoteArgs, Request, Response, TdxQuoteArgs, VerifyResponse,
};
use crate::{legacy, signing, v1, worker};

/// Where an agent listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// `dstack.sock`.
    Guest,
    /// `tappd.sock`.
    Tappd,
    /// TCP, to everyone who can route there.
    Worker,
}

/// The calls that are offered below one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Guest,
    GuestV1,
    Tappd,
    Worker,
    WorkerV1,
}

impl Listener {
    /// The service and the method that a path names, or `None` where nothing is mounted.
    pub(crate) fn route(self, api: GuestApi, path: &str) -> Option<(Service, &str)> {
        use GuestApi::Dstack06;
        let below = match self {
            Self::Guest => path.strip_prefix('/')?,
            Self::Tappd | Self::Worker => path.strip_prefix("/prpc/")?,
        };
        let (service, method) = match (self, api, below.split_once('/')) {
            (Self::Guest, _, None) => (Service::Guest, below),
            (Self::Guest, Dstack06, Some(("v0", method))) => (Service::Guest, method),
            (Self::Guest, Dstack06, Some(("v1", method))) => (Service::GuestV1, method),
            (Self::Tappd, _, None) => (Service::Tappd, below.trim_start_matches("Tappd.")),
            (Self::Worker, _, None) => (Service::Worker, below.trim_start_matches("Worker.")),
            (Self::Worker, Dstack06, Some(("v0", method))) => (Service::Worker, method.trim_start_matches("Worker.")),
            (Self::Worker, Dstack06, Some(("v1", method))) => (Service::WorkerV1, method),
            _ => return None,
        };
        (!method.is_empty() && !method.contains('/')).then_some((service, method))
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

    /// The body of a failed call: exactly dstack's layout.
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
    let go = Go { format, arguments };
    match service {
        // Methods without arguments do not look at the body.
        _ if method == "Version" => format.encode(&instance.version()),
        Service::Guest => guest(instance, method, &go),
        Service::GuestV1 => guest_v1(instance, method, &go),
        Service::Tappd => tappd(instance, method, &go),
        Service::Worker => worker(instance, method, &go),
        Service::WorkerV1 => worker_v1(instance, method, &go),
    }
}

fn guest(i: &Instance, method: &str, go: &Go<'_>) -> Result<Vec<u8>, CallError> {
    match method {
        "Info" => go.format.encode(&i.info()?),
        "GetKey" => go.with(|args: GetKeyArgs| i.get_key(args.path.as_bytes(), &args.purpose, &args.algorithm)),
        "GetTlsKey" => go.with(|args| i.get_tls_key(&args)),
        "GetQuote" => go.with(|args: RawQuoteArgs| i.get_quote(&args.report_data)),
        "Attest" => go.with(|args: RawQuoteArgs| i.attest(&args.report_data)),
        "EmitEvent" => go.with(|args: EmitEventArgs| i.emit_event(&args.event, &args.payload).map(|()| Empty {})),
        "Sign" => go.with(|args| signing::sign(i, &args)),
        "Verify" => go.with(|args| signing::verify(&args).map(|valid| VerifyResponse { valid })),
        unknown => Err(CallError::Method(unknown.to_owned())),
    }
}

fn guest_v1(i: &Instance, method: &str, go: &Go<'_>) -> Result<Vec<u8>, CallError> {
    match method {
        "Info" => go.format.encode(&v1::info(i, false)?),
        "GetKey" => go.with(|request: v1::GetKeyRequest| v1::get_key(i, &request)),
        // GetTlsKey's messages under another name.
        "IssueCert" => go.with(|args| i.get_tls_key(&args)),
        "Attest" => go.with(|request: v1::AttestRequest| v1::attest(i, &request)),
        "AttestGpu" => go.with(|request: v1::AttestGpuRequest| v1::attest_gpu(&request)),
        unknown => Err(CallError::Method(unknown.to_owned())),
    }
}

fn tappd(i: &Instance, method: &str, go: &Go<'_>) -> Result<Vec<u8>, CallError> {
    match method {
        "Info" => go.format.encode(&i.info()?),
        "DeriveKey" => go.with(|args| legacy::derive_key(i, &args)),
        "DeriveK256Key" => go.with(|args| legacy::derive_k256_key(i, &args)),
        "TdxQuote" => go.with(|args| legacy::tdx_quote(i, &args)),
        "RawQuote" => go.with(|args: RawQuoteArgs| {
            let args =
                TdxQuoteArgs { report_data: args.report_data, hash_algorithm: "raw".to_owned(), prefix: String::new() };
            legacy::tdx_quote(i, &args)
        }),
        unknown => Err(CallError::Method(unknown.to_owned())),
    }
}

fn worker(i: &Instance, method: &str, go: &Go<'_>) -> Result<Vec<u8>, CallError> {
    match method {
        "Info" => go.format.encode(&worker::info(i)?),
        "GetAttestationForAppKey" => go.with(|args| worker::attest_app_key(i, &args)),
        unknown => Err(CallError::Method(unknown.to_owned())),
    }
}

fn worker_v1(i: &Instance, method: &str, go: &Go<'_>) -> Result<Vec<u8>, CallError> {
    match method {
        "Info" => go.format.encode(&v1::info(i, !i.app.compose.public_tcbinfo)?),
        "Health" => go.format.encode(&v1::health()),
        unknown => Err(CallError::Method(unknown.to_owned())),
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
    fn paths_name_services_and_methods() {
        use GuestApi::{Dstack05, Dstack06};
        let route = |listener: Listener, api, path| listener.route(api, path);
        for api in [Dstack05, Dstack06] {
            assert_eq!(route(Listener::Guest, api, "/GetKey"), Some((Service::Guest, "GetKey")));
            // One segment is a method's name, whatever it is.
            assert_eq!(route(Listener::Guest, api, "/v1"), Some((Service::Guest, "v1")));
            for tappd in ["/prpc/Tappd.DeriveKey", "/prpc/DeriveKey"] {
                assert_eq!(route(Listener::Tappd, api, tappd), Some((Service::Tappd, "DeriveKey")));
            }
            for worker in ["/prpc/Worker.Info", "/prpc/Info"] {
                assert_eq!(route(Listener::Worker, api, worker), Some((Service::Worker, "Info")));
            }
            for nowhere in ["/", "/a/b", "GetKey", "/prpc/GetKey", "/v1/", "/v1/a/b", "/v2/GetKey"] {
                assert_eq!(route(Listener::Guest, api, nowhere), None, "{nowhere}");
            }
            for nowhere in ["/DeriveKey", "/prpc/v0/Info", "/prpc/v1/Info"] {
                assert_eq!(route(Listener::Tappd, api, nowhere), None, "{nowhere}");
            }
        }
        for (listener, path, found) in [
            (Listener::Guest, "/v0/GetKey", (Service::Guest, "GetKey")),
            (Listener::Guest, "/v1/GetKey", (Service::GuestV1, "GetKey")),
            (Listener::Worker, "/prpc/v0/Worker.Info", (Service::Worker, "Info")),
            (Listener::Worker, "/prpc/v1/Health", (Service::WorkerV1, "Health")),
            // Version 1 has no service names before its methods'.
            (Listener::Worker, "/prpc/v1/Worker.Info", (Service::WorkerV1, "Worker.Info")),
        ] {
            assert_eq!(route(listener, Dstack06, path), Some(found));
            assert_eq!(route(listener, Dstack05, path), None, "{path}");
        }
    }
}
