"use strict";
// leaf through the slices of a case; without this script, and on paper, the still picture stands
for (const viewer of document.querySelectorAll(".viewer")) {
  const slider = viewer.querySelector("input[type=range]");
  const said = viewer.querySelector("output");
  const slices = viewer.dataset.slices.split(",");
  const layers = [...viewer.querySelectorAll(".stage img")];
  const show = () => {
    const place = Number(slider.value);
    const text = slices[place] + " of " + viewer.dataset.of;
    for (const layer of layers) {
      layer.style.transform = "translateY(" + (-100 * place) / slices.length + "%)";
    }
    said.textContent = text;
    slider.setAttribute("aria-valuetext", "slice " + text);
  };
  const toggle = (box) => {
    for (const layer of layers) {
      if (layer.dataset.layer === box.value) layer.hidden = !box.checked;
    }
  };
  for (const box of viewer.querySelectorAll("input[type=checkbox]")) {
    box.addEventListener("change", () => toggle(box));
    toggle(box);
  }
  slider.addEventListener("input", show);
  show();
  viewer.hidden = false;
  viewer.previousElementSibling.hidden = true;
}
