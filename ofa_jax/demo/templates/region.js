// Draws a rectangle over the image: drag with a mouse, a finger or a pen.
let start = null;

const image = () => element.querySelector("img");
const frame = () => element.querySelector(".region-box");

// A place of the pointer in pixels of the image.
function place(event) {
  const edges = image().getBoundingClientRect();
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  return [
    (within(event.clientX - edges.left, edges.width) / edges.width) * image().naturalWidth,
    (within(event.clientY - edges.top, edges.height) / edges.height) * image().naturalHeight,
  ];
}

function show(region) {
  const style = frame().style;
  style.display = region ? "block" : "none";
  if (!region) return;
  const [x0, y0, x1, y1] = region;
  const [width, height] = [image().naturalWidth / 100, image().naturalHeight / 100];
  style.left = `${x0 / width}%`;
  style.top = `${y0 / height}%`;
  style.width = `${(x1 - x0) / width}%`;
  style.height = `${(y1 - y0) / height}%`;
}

function between(first, second) {
  const round = (value) => Math.round(value * 10) / 10;
  return [0, 1].map((axis) => round(Math.min(first[axis], second[axis])))
    .concat([0, 1].map((axis) => round(Math.max(first[axis], second[axis]))));
}

function showGiven() {
  if (!image() || !image().naturalWidth) return;
  const numbers = (props.value?.region || "").split(",").map(parseFloat);
  show(numbers.length === 4 && numbers.every(Number.isFinite) ? numbers : null);
}

element.addEventListener("pointerdown", (event) => {
  if (event.target !== image()) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  start = place(event);
});
element.addEventListener("pointermove", (event) => {
  if (start) show(between(start, place(event)));
});
element.addEventListener("pointerup", (event) => {
  if (!start) return;
  const region = between(start, place(event));
  start = null;
  if (region[2] > region[0] && region[3] > region[1]) trigger("select", { region: region.join(",") });
});
// "load" does not bubble, but can be caught on its way down.
element.addEventListener("load", showGiven, true);
watch("value", showGiven);
