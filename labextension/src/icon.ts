import { LabIcon } from '@jupyterlab/ui-components';

const SVG = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M3 4h18v4H3zM3 10h12v4H3zM3 16h7v4H3z"/>
    <path d="M17 10h4v4h-4zM12 16h4v4h-4z" opacity=".4"/>
  </g>
</svg>`;

/** The panel's icon: requests, of which some are answered. */
export const batchesIcon = new LabIcon({ name: 'vbatch-jupyter:batches', svgstr: SVG });
