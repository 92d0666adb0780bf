//! What is decided on, and what is answered.

use super::setting::*;

#[tokio::test]
async fn an_allowed_request_reaches_the_application() {
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let response = get(proxy.addresses.ingress.unwrap(), "shop", "/cart").await;
    assert_eq!((response.status, response.body.as_str()), (200, "shop"));
    assert_eq!(application.last().line, "GET /cart");
}
