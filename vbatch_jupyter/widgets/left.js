export default {
  render({ model, el }) {
    el.style.display = "none";
    // Without its kernel a widget does nothing any more, and the front end would only mark its parts as broken.
    model.on("comm_live_update", () => {
      const box = el.closest(".vbatch-box");
      if (!box) return;
      const left = document.createElement("div");
      left.className = "vbatch-left jp-RenderedHTMLCommon";
      left.innerHTML = model.get("html");
      box.replaceWith(left);
    });
  },
};
