//! The errors of the proxy in front of a cluster. Those that the cluster has as well are explained as the cluster's.

use crate::abi::ERC1967Proxy::ERC1967ProxyErrors as E;

/// Reason and hint.
pub(super) fn explain(error: &E) -> (String, &'static str) {
    match error {
        E::ERC1967ProxyUninitialized(_) => {
            ("the proxy was created without initializing it".to_owned(), "deploy with `meshctl deploy`")
        }
        E::AddressEmptyCode(e) => (
            format!("the proxy found no implementation at {}", e.target),
            "deploy the implementation first, on the same chain",
        ),
        E::ERC1967InvalidImplementation(e) => {
            (format!("{} cannot be a proxy's implementation", e.implementation), "deploy the implementation first")
        }
        E::ERC1967NonPayable(_) => ("a proxy without a call takes no ether".to_owned(), "send no value"),
        E::FailedCall(_) => {
            ("a call made by the proxy failed without a reason".to_owned(), "check the data the proxy was made with")
        }
    }
}
