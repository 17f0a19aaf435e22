// The values of a figure's points, at the mouse, at a finger's tap, and by the arrow keys once the figure has the focus.
// Without this script the browser shows the same text as the point's title.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  for (const figure of document.querySelectorAll("figure.drawn:has(.point)")) {
    const svg = figure.querySelector("svg");
    const points = [...svg.querySelectorAll(".point")];
    const texts = points.map((point) => {
      const title = point.querySelector("title");
      title.remove(); // or the browser would show it too
      return title.textContent;
    });
    const note = figure.appendChild(document.createElement("div"));
    note.setAttribute("role", "status");
    let chosen = -1;

    function choose(number) {
      points[chosen]?.classList.remove("chosen");
      chosen = number;
      note.textContent = texts[number] ?? "";
      if (!points[number]) return;
      points[number].classList.add("chosen");
      const box = points[number].getBoundingClientRect();
      const frame = figure.getBoundingClientRect();
      const left = Math.min(box.right - frame.left + 6, frame.width - note.offsetWidth);
      const above = box.top - frame.top - note.offsetHeight - 6;
      note.style.left = `${Math.max(0, left)}px`;
      note.style.top = `${above < 0 ? box.bottom - frame.top + 6 : above}px`;
    }

    // Of the points under the mouse, the nearest: they overlap where lines run close together.
    function nearest(event) {
      let best = -1;
      let least = Infinity;
      for (const [number, point] of points.entries()) {
        const box = point.getBoundingClientRect();
        if (event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom) continue;
        const distance = Math.hypot(event.clientX - (box.left + box.right) / 2, event.clientY - (box.top + box.bottom) / 2);
        if (distance < least) [best, least] = [number, distance];
      }
      return best;
    }

    svg.addEventListener("pointermove", (event) => choose(nearest(event)));
    svg.addEventListener("pointerdown", (event) => choose(nearest(event)));
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(-1));
    svg.addEventListener("blur", () => choose(-1));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -chosen, End: points.length - 1 - chosen }[event.key];
      if (step !== undefined) {
        event.preventDefault();
        choose(Math.max(0, Math.min(points.length - 1, chosen + step)));
      } else if (event.key === "Escape") {
        choose(-1);
      }
    });
  }
});
