// Before and after: the slider moves the edge between the two registered pictures.
for (const slider of document.querySelectorAll(".slide input[type=range]")) {
  slider.addEventListener("input", () => slider.closest(".slide").style.setProperty("--at", `${slider.value}%`));
}
