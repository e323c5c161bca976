//! The frame of Kafka's protocol (<https://kafka.apache.org/protocol>), and the types
//! of its fields.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) async fn ask(connection: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    connection.write_all(request).await?;
    let length = connection.read_u32().await?;
    if length > 1 << 20 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length as usize];
    connection.read_exact(&mut answer).await?;
    Ok(answer)
}

/// A request as Kafka frames it: its length, the header (version 1) and the body.
pub(super) fn request(api: u16, version: u16, body: &[u8]) -> Vec<u8> {
    const CORRELATION: [u8; 4] = [0, 0, 0, 1];
    const CLIENT: &[u8] = b"\0\x07engines";
    let request = [&api.to_be_bytes()[..], &version.to_be_bytes(), &CORRELATION, CLIENT, body].concat();
    let length = u32::try_from(request.len()).unwrap_or_default().to_be_bytes();
    [&length[..], &request].concat()
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap_or_default().to_be_bytes()[..], text.as_bytes()].concat()
}

pub(super) fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

pub(super) fn int16(rest: &mut &[u8]) -> Option<i16> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i16::from_be_bytes(*bytes))
}

pub(super) fn int32(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i32::from_be_bytes(*bytes))
}

/// A length of -1 is null, which is read as the empty string.
pub(super) fn nullable_string(rest: &mut &[u8]) -> Option<String> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0);
    let (bytes, after) = after.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).ok()
}
