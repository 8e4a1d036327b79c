//! The mesh agent: chain watcher, guest agent client, identity, links, driver loop, local API.
