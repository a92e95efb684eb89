export default {
  render({ model, el }) {
    const button = document.createElement("button");
    button.className = "lm-Widget jupyter-widgets jupyter-button widget-button vbatch-copy";
    button.textContent = "Copy the cell";
    button.onclick = async () => {
      let said = "Copied";
      // A page over plain HTTP has no clipboard; the text is next to the button.
      try { await navigator.clipboard.writeText(model.get("text")); } catch { said = "Select it to copy"; }
      button.textContent = said;
      setTimeout(() => { button.textContent = "Copy the cell"; }, 2000);
    };
    el.append(button);
  },
};
