export default {
  render({ model, el }) {
    const button = document.createElement("button");
    button.className = "lm-Widget jupyter-widgets jupyter-button widget-button vbatch-" +
      model.get("label").toLowerCase();
    const draw = () => {
      button.textContent = model.get("label");
      button.disabled = !model.get("is_enabled");
    };
    button.onclick = async () => {
      button.disabled = true;
      const response = await askServer(model.get("path"));
      // A conflict says that the batch has ended already.
      if (!response || !(response.ok || response.status === 409)) model.send({ refused: true });
    };
    model.on("change:label", draw);
    model.on("change:is_enabled", draw);
    draw();
    el.append(button);
  },
};
