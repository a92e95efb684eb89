const places = document.querySelectorAll("div[data-vbatch-verb]:not([data-vbatch-drawn])");
if (!document.getElementById("jupyter-config-data")) return;
for (const place of places) {
  place.setAttribute("data-vbatch-drawn", "");
  const button = document.createElement("button");
  button.textContent = place.getAttribute("data-vbatch-label");
  const verb = place.getAttribute("data-vbatch-verb");
  button.className = `vbatch-${verb}`;
  button.onclick = async () => {
    button.disabled = true;
    const id = place.getAttribute("data-vbatch-batch");
    const response = await askServer(`vbatch/batches/${encodeURIComponent(id)}/${verb}`);
    const answer = response ? await response.json().catch(() => ({})) : {};
    const said = document.createElement("span");
    said.textContent = response && response.ok
      ? ` runs as ${answer.id}: %vbatch attach ${answer.id}`
      : ` ${(answer.error && answer.error.message) || "The Jupyter server refused."}`;
    button.after(said);
  };
  place.append(button);
}
