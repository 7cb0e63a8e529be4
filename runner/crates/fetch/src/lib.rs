//! Access to remote content: HTTP and TCP to granted origins, archives, artifacts and images, and modules in OCI registries.
//!
//! Invariant: each hop of a request is checked against the grants, and each address before a connection. An archive
//! never writes outside its directory. Deliberately absent: sandboxed modules.

pub mod archive;
mod credentials;
pub mod net;
pub mod oci;
pub mod registry;
