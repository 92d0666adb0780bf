//! What Envoy speaks with policyd, as far as Tidegate knows it: generated from `proto/envoy/` and `proto/google/`.
//!
//! The modules lie as the packages of those files do, for they name each other so.

pub use envoy::config::core::v3 as core;
pub use envoy::service::auth::v3 as auth;
pub use envoy::r#type::v3 as status;
pub use google::rpc;

#[expect(missing_docs, reason = "the packages of Envoy")]
#[expect(clippy::module_inception, reason = "that is how the outermost package is called")]
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("gen/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod service {
        pub mod auth {
            #[expect(unused_qualifications, reason = "generated; the .proto file is the documentation")]
            #[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
            pub mod v3 {
                include!("gen/envoy.service.auth.v3.rs");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            include!("gen/envoy.r#type.v3.rs");
        }
    }
}

#[expect(missing_docs, reason = "the packages of Google")]
pub mod google {
    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}
