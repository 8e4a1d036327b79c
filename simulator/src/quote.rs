//! A value with the shape of a TDX quote, so that parsers and register replays work; it proves nothing.
//!
//! Layout: Intel's TDX DCAP quote version 4 (48-byte header, 584-byte TD report body, signature data). Every
//! signature in it is zero and its certificate says SIMULATED: no verifier can accept it.

use crate::events::{Measurement, simulated};

const HEADER_LENGTH: usize = 48;
const BODY_LENGTH: usize = 584;
const TEE_TYPE_TDX: u32 = 0x81;
const KEY_TYPE_ECDSA_P256: u16 = 2;
const CERTIFICATE_QE_REPORT: u16 = 6;
const CERTIFICATE_PCK_CHAIN: u16 = 5;
/// Intel's QE vendor id; without it parsers do not look further.
const QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
const NOTICE: &[u8] = b"SIMULATED: not a TDX quote\n";

/// What the TD report of an instance says.
pub(crate) struct TdReport {
    pub(crate) mrtd: Measurement,
    pub(crate) mr_config_id: Measurement,
    pub(crate) rtmrs: [Measurement; 4],
}

impl TdReport {
    pub(crate) fn new(compose_hash: &[u8; 32], rtmrs: [Measurement; 4]) -> Self {
        let mut mr_config_id = [0; 48];
        mr_config_id[0] = 1;
        mr_config_id[1..33].copy_from_slice(compose_hash);
        Self { mrtd: simulated("virtual firmware"), mr_config_id, rtmrs }
    }

    /// The quote over this report and the caller's data.
    pub(crate) fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let mut quote = header();
        quote.extend([0; 16]); // TEE TCB SVN
        quote.extend(simulated("TDX module")); // MRSEAM
        quote.extend([0; 48]); // MRSIGNERSEAM
        quote.extend([0; 24]); // SEAM attributes, TD attributes, XFAM
        quote.extend(self.mrtd);
        quote.extend(self.mr_config_id);
        quote.extend([0; 96]); // MROWNER, MROWNERCONFIG
        quote.extend(self.rtmrs.as_flattened());
        quote.extend(report_data);
        debug_assert_eq!(quote.len(), HEADER_LENGTH + BODY_LENGTH);
        let signature = signature_data();
        quote.extend(length(&signature));
        quote.extend(signature);
        quote
    }
}

fn header() -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LENGTH);
    header.extend(4u16.to_le_bytes());
    header.extend(KEY_TYPE_ECDSA_P256.to_le_bytes());
    header.extend(TEE_TYPE_TDX.to_le_bytes());
    header.extend([0; 4]); // PCE SVN, QE SVN
    header.extend(QE_VENDOR);
    let mut user_data = [0; 20];
    user_data[..9].copy_from_slice(b"SIMULATED");
    header.extend(user_data);
    header
}

fn signature_data() -> Vec<u8> {
    let mut qe = vec![0; 384 + 64]; // QE report and its signature
    qe.extend(0u16.to_le_bytes()); // length of the QE authentication data
    qe.extend(CERTIFICATE_PCK_CHAIN.to_le_bytes());
    qe.extend(length(NOTICE));
    qe.extend(NOTICE);

    let mut data = vec![0; 64 + 64]; // quote signature and attestation key
    data.extend(CERTIFICATE_QE_REPORT.to_le_bytes());
    data.extend(length(&qe));
    data.extend(qe);
    data
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a v4 quote carries the caller's 64 bytes.
    const REPORT_DATA_OFFSET: usize = 568;

    #[test]
    fn fields_lie_where_the_format_puts_them() {
        let rtmrs = [[0xa0; 48], [0xa1; 48], [0xa2; 48], [0xa3; 48]];
        let report = TdReport::new(&[0xcc; 32], rtmrs);
        let quote = report.quote(&[0xdd; 64]);
        assert_eq!(&quote[..8], [4, 0, 2, 0, 0x81, 0, 0, 0]);
        assert_eq!(quote[48 + 136..48 + 184], report.mrtd);
        assert_eq!(quote[48 + 184], 1);
        assert_eq!(quote[48 + 185..48 + 217], [0xcc; 32]);
        assert_eq!(quote[48 + 217..48 + 232], [0; 15]);
        for (i, rtmr) in rtmrs.iter().enumerate() {
            assert_eq!(quote[48 + 328 + 48 * i..48 + 376 + 48 * i], rtmr[..]);
        }
        assert_eq!(quote[REPORT_DATA_OFFSET..REPORT_DATA_OFFSET + 64], [0xdd; 64]);
        let signed = u32::from_le_bytes(quote[632..636].try_into().unwrap()) as usize;
        assert_eq!(quote.len(), 636 + signed);
        assert!(quote.ends_with(NOTICE));
    }
}
