//! What comes from elsewhere: HTTP and TCP to granted origins, archives, and modules in OCI registries.
//!
//! Invariant: each hop of a request is checked against the grants, and each address before it is connected to; an archive never reaches
//! outside of its directory. Deliberately absent: sandboxed modules.

pub mod archive;
mod credentials;
pub mod net;
pub mod registry;
