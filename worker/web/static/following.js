// A page that follows a batch says so while it is not up to date.
document.body.addEventListener("htmx:afterRequest", (event) => {
  document.getElementById("stale").hidden = event.detail.successful === true;
});
