//! Which device a model runs on.

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::model::ModelError;

/// A device as the user names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The best device this program was built for.
    #[default]
    Auto,
    /// The processor.
    Cpu,
}

impl DeviceChoice {
    /// Open the device.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(self) -> Result<Device, ModelError> {
        match self {
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
        }
    }
}
