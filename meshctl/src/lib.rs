//! The operator's command line for the mesh.
